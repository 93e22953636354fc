"""What docker-compose.yml lets in from outside, which secrets it shows to whom, and what its processes may do."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from chat_worker.settings import ChatWorkerSettings
from demo_model.settings import Settings as DemoModelSettings
from deploy.compose.make_secrets import write
from deploy.local.rabbitmq import SERVICE_USERS, definitions
from gateway.settings import GatewaySettings
from persistence.settings import PersistenceSettings
from shared.contracts import BYTES_MAX
from shared.db.migrate import MigrateSettings
from shared.settings import ServiceSettings
from task_tools.settings import TaskToolsSettings
from tests.support.settings import variables_of

_ROOT = Path(__file__).parents[2]
_SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "chat-worker": ChatWorkerSettings,
    "persistence": PersistenceSettings,
    "task-tools": TaskToolsSettings,
    "migrate": MigrateSettings,
}
_ONE_SHOTS = {"migrate", "secrets"}
_SCALED = {"gateway", "chat-worker", "persistence"}
_DEFAULT = re.compile(r"\$\{[A-Z][A-Z0-9_]*:-([^}]*)\}")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|_KEY$")

Service = Mapping[str, Any]


@pytest.fixture(scope="module")
def services() -> Mapping[str, Service]:
    """The services, with the defaults of what `.env` may set."""
    text = _DEFAULT.sub(lambda found: found[1], (_ROOT / "docker-compose.yml").read_text())
    return dict(yaml.safe_load(text)["services"])


def _environment(service: Service) -> dict[str, str | None]:
    return dict(service.get("environment") or {})


def test_only_the_proxy_and_pages_for_operators_are_published_and_on_loopback_alone(
    services: Mapping[str, Service],
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published == {
        "proxy": ["127.0.0.1:8080:8080", "127.0.0.1:8443:8443"],
        "rabbitmq": ["127.0.0.1:15672:15672"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert {name: service["network_mode"] for name, service in services.items() if "network_mode" in service} == {
        "secrets": "none"
    }


def test_the_proxy_reaches_gateways_and_nothing_behind_them(services: Mapping[str, Service]) -> None:
    networks = {name: set(service.get("networks", [])) for name, service in services.items()}

    assert networks.pop("proxy") == {"edge"}
    assert {name for name, joined in networks.items() if "edge" in joined} == {"gateway"}


def test_whatever_runs_is_read_only_has_no_privileges_and_is_bounded(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert not service.keys() & {"privileged", "cap_add", "pid", "ipc", "devices", "container_name"}, name
        assert all("docker.sock" not in volume for volume in service.get("volumes", [])), name


def test_nobody_is_root_but_who_makes_the_secrets(services: Mapping[str, Service]) -> None:
    """Those that are built say so in their Dockerfile, which tests/deploy/test_images.py reads."""
    users = {name: service.get("user") for name, service in services.items()}

    assert {name for name, user in users.items() if user and user.startswith("0:")} == {"secrets"}
    assert not [name for name, service in services.items() if "image" in service and not users[name]]


def test_images_have_versions(services: Mapping[str, Service]) -> None:
    images = [service["image"] for service in services.values() if "image" in service]

    assert len(images) == 5
    for image in images:
        name, _, tag = image.partition(":")
        assert name, image
        assert re.match(r"v?\d", tag), image


def test_what_goes_on_says_when_it_is_healthy(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        if name in _ONE_SHOTS:
            assert service["healthcheck"] == {"disable": True}, name
        elif "healthcheck" not in service:
            assert "HEALTHCHECK" in (_ROOT / service["build"]["dockerfile"]).read_text(), name
        else:
            assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name


def test_a_service_waits_for_what_it_needs_and_the_proxy_for_all_that_a_message_needs(
    services: Mapping[str, Service],
) -> None:
    finished, healthy = "service_completed_successfully", "service_healthy"
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }

    assert waits["proxy"] == dict.fromkeys(("gateway", "chat-worker", "persistence", "task-tools"), healthy)
    for name in ("gateway", "chat-worker", "persistence", "task-tools"):
        assert waits[name] == {"secrets": finished, "migrate": finished, "rabbitmq": healthy}
    assert waits["migrate"] == {"secrets": finished, "postgres": healthy}
    for name in ("postgres", "rabbitmq", "grafana"):
        assert waits[name] == {"secrets": finished}


def test_two_of_what_can_be_scaled(services: Mapping[str, Service]) -> None:
    assert {name for name, service in services.items() if service.get("deploy", {}).get("replicas") == 2} == _SCALED
    assert not [name for name in _SCALED if services[name].keys() & {"ports", "hostname"}]


def test_a_service_is_shown_its_own_secrets_and_can_change_none(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        shown = [volume for volume in service.get("volumes", []) if volume.startswith("secrets")]
        if name == "secrets":
            assert {volume.partition(":")[0] for volume in shown if volume != "secrets:/secrets/kept"} == {
                f"secrets-{other}" for other in services if other not in {"secrets", "demo-model", "prometheus"}
            }
        elif name in {"demo-model", "prometheus"}:
            assert shown == []
        else:
            assert shown == [f"secrets-{name}:/run/secrets:ro"]


def test_no_secret_is_in_an_environment_nor_has_a_default(services: Mapping[str, Service]) -> None:
    """But for the key of the model endpoint, which is the user's; and the demo model's is none."""
    for name, service in services.items():
        secret = {key: value for key, value in _environment(service).items() if _SECRET_NAME.search(key)}
        secret.pop("OPENAI_API_KEY", None)
        if name == "secrets":
            assert set(secret.values()) == {None}
        else:
            assert {key: value for key, value in secret.items() if not (value or "").startswith("/run/secrets/")} in (
                {},
                {"PERSISTENCE_WEBHOOK_SECRET": None},
            )


@pytest.mark.parametrize("name", sorted(_SETTINGS))
def test_every_variable_is_one_that_the_service_reads(
    name: str, services: Mapping[str, Service], tmp_path: Path
) -> None:
    read = {variable for variable, _ in variables_of(_SETTINGS[name])}
    write(tmp_path, {"SESSION_SECRET": "s" * 32, "JWT_PREVIOUS_SECRETS": "[]", "TOOL_TOKEN_PREVIOUS_SECRETS": "[]"})

    given = _environment(services[name]).keys() | {file.name for file in (tmp_path / name).iterdir()}

    assert given <= read
    required = {variable for variable, field in variables_of(_SETTINGS[name]) if field.is_required()}
    assert required - {"RABBITMQ_URL"} <= given


def test_every_variable_of_the_demo_model_is_one_that_it_reads(services: Mapping[str, Service]) -> None:
    read = {f"DEMO_MODEL_{field.name.upper()}" for field in fields(DemoModelSettings)}

    assert _environment(services["demo-model"]).keys() <= read


@pytest.mark.parametrize("name", sorted(_SETTINGS))
def test_the_secrets_that_are_made_are_good_enough_where_others_reach_the_service(
    name: str, services: Mapping[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {})
    for variable, _ in variables_of(_SETTINGS[name]):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in _environment(services[name]).items():
        if value is not None:
            monkeypatch.setenv(variable, str(value))
    for file in (tmp_path / name).iterdir():
        monkeypatch.setenv(file.name, file.read_text())

    for profile in ("local", "production"):
        monkeypatch.setenv("PARLEY_PROFILE", profile)
        settings = _SETTINGS[name]()
        assert settings.profile.value == profile


def test_a_stop_waits_for_all_that_the_service_may_wait_for(services: Mapping[str, Service]) -> None:
    """As long as the charts have a pod wait, which say what each second is for."""

    def default(name: str, field: str) -> float:
        return float(_SETTINGS[name].model_fields[field].default)

    needed = {
        "gateway": default("gateway", "shutdown_seconds") + 20,
        "chat-worker": default("chat-worker", "grace_seconds") + 90,
        "persistence": 2 * default("persistence", "stop_seconds") + 30,
        "task-tools": 30,
    }

    for name, seconds in needed.items():
        assert float(services[name]["stop_grace_period"].removesuffix("s")) >= seconds


def test_the_proxy_waits_longer_than_a_gateway_and_holds_no_stream_back() -> None:
    text = (_ROOT / "deploy/proxy/nginx.conf").read_text()

    def seconds(name: str) -> float:
        found = re.search(rf"^\s*{name} (\d+)s;", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def default(field: str) -> float:
        return float(GatewaySettings.model_fields[field].default)

    assert seconds("proxy_read_timeout") > max(default("foreground_wait_seconds"), default("heartbeat_seconds"))
    assert seconds("client_body_timeout") > default("large_body_seconds_max")
    assert seconds("send_timeout") > default("send_timeout_seconds")
    for line in ("proxy_buffering off;", "proxy_request_buffering off;", "client_max_body_size 0;", "http2 on;"):
        assert line in text


def test_the_start_script_makes_the_definitions_that_the_private_server_has(tmp_path: Path) -> None:
    """The script is run with its folders moved, and with a stand-in for what only the image has."""
    passwords = {f"{prefix}_RABBITMQ_PASSWORD": f"pw.{prefix}" for prefix in SERVICE_USERS}
    passwords["RABBITMQ_PASSWORD"] = "pw"
    script = (_ROOT / "deploy/rabbitmq/start.sh").read_text()
    for former, own in (
        ("/opt/parley", str(_ROOT / "deploy/rabbitmq")),
        ("/run/secrets", str(tmp_path / "given")),
        ("/run/parley", str(tmp_path / "made")),
        ("exec docker-entrypoint.sh", 'exec echo "$RABBITMQ_CONFIG_FILE"'),
    ):
        assert former in script
        script = script.replace(former, own)

    def run(**changed: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "given").mkdir(exist_ok=True)
        for name, value in {**passwords, **changed}.items():
            (tmp_path / "given" / name).write_text(value)
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert run().stdout == f"{_ROOT}/deploy/rabbitmq/rabbitmq.conf rabbitmq-server\n"
    made: dict[str, Any] = {}
    for file in (tmp_path / "made/definitions").iterdir():
        assert file.stat().st_mode & 0o077 == 0
        made |= json.loads(file.read_text())
    files = [_ROOT / "deploy/rabbitmq" / name for name in ("definitions.json", "policies.json")]
    expected: dict[str, Any] = {}
    for file in files:
        expected |= json.loads(Template(file.read_text()).safe_substitute(passwords, VHOST="/"))
    assert made == expected
    ours = definitions("amqp://a:b@c/", "/")
    assert [user["name"] for user in ours["users"]] == [user["name"] for user in made["users"]]
    assert ours["policies"] == made["policies"]

    for refused in ({"RABBITMQ_PASSWORD": ""}, {"GATEWAY_RABBITMQ_PASSWORD": 'x","tags":"administrator'}):
        ended = run(**refused)
        assert ended.returncode == 1
        assert next(iter(refused)) in ended.stderr


def test_documents_run_programs_in_containers_as_services_run() -> None:
    """Only `parley` gives them the secrets."""
    documents = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]

    assert not [
        path.name for path in documents if re.search(r"docker compose (exec|run) .*python -m", path.read_text())
    ]


def test_rabbitmq_reads_what_the_start_script_makes_and_takes_no_larger_message_than_its_readers() -> None:
    configuration = (_ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()

    assert re.findall(r"^load_definitions = (.+)$", configuration, re.MULTILINE) == ["/run/parley/definitions"]
    assert re.findall(r"^max_message_size = (\d+)$", configuration, re.MULTILINE) == [str(BYTES_MAX)]


def test_prometheus_finds_every_process_of_a_service_where_it_tells_its_metrics(
    services: Mapping[str, Service],
) -> None:
    """The ports are those of the images; a gateway's metrics have one of their own, which its environment names."""
    told = yaml.safe_load((_ROOT / "deploy/prometheus/prometheus.yml").read_text())
    found = {
        job["job_name"]: (config["names"], config["type"], config["port"])
        for job in told["scrape_configs"]
        for config in job.get("dns_sd_configs", [])
    }

    expected = {"gateway": int(_environment(services["gateway"])["GATEWAY_METRICS_PORT"] or 0), "rabbitmq": 15692}
    for name in ("chat-worker", "persistence", "task-tools"):
        port = re.search(r"^EXPOSE (\d+)$", (_ROOT / name / "Dockerfile").read_text(), re.MULTILINE)
        expected[name] = int(port[1]) if port else 0
    assert {name: (names, kind, port) for name, (names, kind, port) in found.items() if name != "rabbitmq-queues"} == {
        name: ([name], "A", port) for name, port in expected.items()
    }
    assert all(set(services[name]["networks"]) & set(services["prometheus"]["networks"]) for name in expected)
