"""Reads YAML documents from stdin and says what is wrong with them, as JSON. Run with this folder's own environment.

`manifests.py [--kube VERSION]... [--crds FOLDER]` prints {"documents": […], "faults": […], "unchecked": […]}: each
document is checked by the schemas of these versions of Kubernetes, unknown fields being faults; resources of operators
by their definitions in FOLDER, else they are named in `unchecked`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml


class OneValuePerKey(yaml.CSafeLoader):
    """YAML in which a key that is given twice is an error, and dates are texts."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - the base class's
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kube", action="append", default=[])
    parser.add_argument("--crds", type=Path)
    asked = parser.parse_args()
    try:
        documents = [each for each in yaml.load_all(sys.stdin, OneValuePerKey) if each is not None]
    except yaml.YAMLError as error:
        print(json.dumps({"documents": [], "faults": [str(error)], "unchecked": []}))  # noqa: T201 - its purpose
        return
    definitions = definitions_in(asked.crds) if asked.crds else {}
    faults: list[str] = []
    unchecked: list[str] = []
    for document in documents if asked.kube else ():
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        if definition := definitions.get((document.get("apiVersion"), document.get("kind"))):
            faults += [f"{name}: {fault}" for fault in faults_of(document, definition)]
            continue
        for version in asked.kube:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                unchecked.append(name)
                break
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{name}, Kubernetes {version}: {error.message}")
    print(json.dumps({"documents": documents, "faults": faults, "unchecked": unchecked}))  # noqa: T201


def definitions_in(folder: Path) -> dict[tuple[str, str], Any]:
    """The schemas of all CustomResourceDefinitions in the files of `folder`, by apiVersion and kind."""
    found = {}
    for file in sorted(folder.glob("*.y*ml")):
        for definition in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            if definition and definition.get("kind") == "CustomResourceDefinition":
                spec = definition["spec"]
                for version in spec["versions"]:
                    schema = closed(version["schema"]["openAPIV3Schema"])
                    found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def closed(schema: Any) -> Any:
    """The schema as the API server takes it: fields that it does not name are dropped there, and are faults here."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    return made


def faults_of(document: Any, schema: Any) -> Iterator[str]:
    open_metadata = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
    for error in jsonschema.Draft7Validator(open_metadata).iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


if __name__ == "__main__":
    main()
