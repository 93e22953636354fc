"""`python -m deploy.helm.derived`: makes anew what the charts have of other files. Tests compare it.

That is: the table of values in README.md, of values.yaml; the names of the settings that `settings` takes in
values.schema.json, of the services' settings classes; the alerts, of deploy/prometheus.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from chat_worker.settings import ChatWorkerSettings
from demo_model.settings import Settings as DemoModelSettings
from gateway.settings import GatewaySettings
from persistence.settings import PersistenceSettings
from shared.settings import ServiceSettings
from task_tools.settings import TaskToolsSettings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "kubernetes"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

_CLASSES: Mapping[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "chatWorker": ChatWorkerSettings,
    "persistence": PersistenceSettings,
    "taskTools": TaskToolsSettings,
}
# What a value of its own says, in whatever rendering: `settings` must not say it again. A test looks for others.
SET_BY_CHART = frozenset(
    {
        *("PARLEY_PROFILE", "LOG_FORMAT", "LOG_LEVEL", "JOURNAL_PARTITION_COUNT", "TLS_CA_FILE", "TOOL_SERVERS_FILE"),
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG"),
        *("OPENAI_BASE_URL", "MODEL", "MODEL_INPUTS", "MODEL_CONTEXT_TOKENS", "TASK_TOOLS_URL"),
        *("JWT_JWKS_URL", "JWT_JWKS_ISSUER", "JWT_JWKS_AUDIENCE"),
        *("EGRESS_PORTS", "EGRESS_ALLOWS_HTTP", "EGRESS_ALLOWED"),
        *("GATEWAY_HOST", "GATEWAY_PORT", "GATEWAY_METRICS_HOST", "GATEWAY_METRICS_PORT", "GATEWAY_PUBLIC_URL"),
        *("GATEWAY_TRUSTED_PROXIES", "GATEWAY_SHUTDOWN_SECONDS", "GATEWAY_STREAM_SECONDS_MAX"),
        *("GATEWAY_FOREGROUND_WAIT_SECONDS", "GATEWAY_LARGE_BODY_BYTES_MAX"),
        *("CHAT_WORKER_HOST", "CHAT_WORKER_PORT", "CHAT_WORKER_CONCURRENCY", "CHAT_WORKER_GRACE_SECONDS"),
        *("PERSISTENCE_HOST", "PERSISTENCE_PORT", "PERSISTENCE_STOP_SECONDS", "PERSISTENCE_WEBHOOK_URL"),
        *("TASK_TOOLS_HOST", "TASK_TOOLS_PORT", "TASK_TOOLS_ALLOWED_HOSTS"),
        *("DEMO_MODEL_HOST", "DEMO_MODEL_PORT"),
    }
)
# Of no use in a cluster: for tests, for other profiles, for files of an image.
_OF_NO_USE = frozenset({"PARLEY_FAULT", "PARLEY_SABOTAGE", "PARLEY_PRIVATE_NETWORK", "GATEWAY_WEB_ROOT"})


def variables(settings: type[ServiceSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The variables that `settings` reads."""
    for name, field in settings.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            yield from ((str(choice), field) for choice in field.validation_alias.choices)
        else:
            yield f"{settings.model_config.get('env_prefix', '')}{name}".upper(), field


def variables_by_service() -> dict[str, set[str]]:
    """What each service reads, by the name of its values."""
    found = {service: {name for name, _ in variables(settings)} for service, settings in _CLASSES.items()}
    found["demoModel"] = {f"DEMO_MODEL_{field.name.upper()}" for field in fields(DemoModelSettings)}
    return found


def settable() -> dict[str, list[str]]:
    """What `settings` takes: no secrets, and nothing that has a value of its own."""
    secret = {name for each in _CLASSES.values() for name, field in variables(each) if _is_secret(field.annotation)}
    kept_out = secret | SET_BY_CHART | _OF_NO_USE
    return {service: sorted(names - kept_out) for service, names in variables_by_service().items()}


def _is_secret(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType, tuple):
        return any(_is_secret(each) for each in get_args(annotation) if each is not NoneType)
    return annotation is SecretStr


def schema() -> str:
    """values.schema.json with the names of today's settings."""
    read = json.loads((CHART / "values.schema.json").read_text())
    for service, names in settable().items():
        read["definitions"][f"{service}Settings"]["propertyNames"]["enum"] = names
    return json.dumps(read, indent=2) + "\n"


@dataclass(frozen=True)
class Value:
    path: str
    default: str
    text: str


_LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]+):(?: (?P<value>.+))?")


def values_in(text: str) -> Iterator[Value]:
    """What a values.yaml says, key by key. The file is ours, and as plain as this."""
    path: list[str] = []
    comment: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif match := _LINE.fullmatch(line):
            depth = len(match["indent"]) // 2
            path[depth:] = [match["key"]]
            is_list = match["value"] is None and following.startswith("- ")
            default = _listed(lines[number + 1 :]) if is_list else match["value"] or ""
            if default or comment:
                yield Value(".".join(path), default, " ".join(comment))
            comment = []
        else:
            comment = []


def _listed(lines: list[str]) -> str:
    """The items of a list that begins there, on one line."""
    items = []
    for line in lines:
        if not line.strip().startswith("- "):
            break
        items.append(f"{{{line.strip().removeprefix('- ')}}}")
    return f"[{', '.join(items)}]"


def table(text: str) -> str:
    rows = [
        f"| `{each.path}` | {f'`{each.default}`' if each.default else ''} | {each.text} |" for each in values_in(text)
    ]
    return "\n".join(["| value | default | what |", "|---|---|---|", *rows])


def readme() -> str:
    """README.md with tables of today's values."""
    text = (CHART / "README.md").read_text()
    for name, file in (("values", CHART / "values.yaml"), ("stores", CHART / "stores" / "values.yaml")):
        head, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition(f"<!-- end of {name} -->")
        assert begin, f"README.md says where the table of {name} begins"
        assert end, f"README.md says where the table of {name} ends"
        text = f"{head}{begin}\n{table(file.read_text())}\n\n{end}{tail}"
    return text


def files() -> dict[Path, str]:
    """What is made of other files, and what it should hold."""
    made = {CHART / "README.md": readme(), CHART / "values.schema.json": schema()}
    if ALERTS.exists():
        made[CHART / "files" / "alerts.yml"] = ALERTS.read_text()
    return made


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
