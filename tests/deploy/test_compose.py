"""What docker-compose.yml lets in from outside, and which secrets it hands to whom."""

import json
import os
import re
import subprocess
from pathlib import Path
from string import Template

import pytest

from deploy.local.rabbitmq import SERVICE_USERS, definitions
from shared.contracts import BYTES_MAX

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, str]:
    """The text of each service, by its name. The file is ours, and as plain as this."""
    text = (_ROOT / "docker-compose.yml").read_text().partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    parts = re.split(r"^  ([a-z-]+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_only_the_gateway_and_a_ui_are_published_and_on_loopback_alone(services: dict[str, str]) -> None:
    published = {name: re.findall(r"^    ports: (.+)$", text, re.MULTILINE) for name, text in services.items()}
    ports = {name: found for name, found in published.items() if found}

    assert len(services) == 8
    assert ports == {
        "gateway": ['["127.0.0.1:${GATEWAY_PUBLISHED_PORT:-8080}:8080"]'],
        "rabbitmq": ['["127.0.0.1:${RABBITMQ_MANAGEMENT_PUBLISHED_PORT:-15672}:15672"]'],
    }
    assert not [
        name for name, text in services.items() if re.search(r"network_mode|host_ip|^    ports:$", text, re.MULTILINE)
    ]


def test_a_service_gets_its_own_broker_connection_and_no_other(services: dict[str, str]) -> None:
    head = (_ROOT / "docker-compose.yml").read_text().partition("\nservices:\n")[0]
    own = {"gateway": "GATEWAY", "chat-worker": "CHAT_WORKER", "persistence": "PERSISTENCE"}

    assert "RABBITMQ" not in head
    for name, text in services.items():
        urls = re.findall(r"([A-Z_]*RABBITMQ_URL): amqp://([a-z_]+):(.+)@rabbitmq", text)
        prefix = own.get(name)
        password = f"{prefix}_RABBITMQ_PASSWORD"
        found = re.search(rf"{password}: (.+)", services["rabbitmq"])
        assert urls == ([(f"{prefix}_RABBITMQ_URL", SERVICE_USERS[prefix], found[1])] if prefix and found else [])
        assert bool(prefix) == bool(urls)


def test_the_start_script_makes_the_definitions_that_the_private_server_has(tmp_path: Path) -> None:
    """The script is run with its folders moved, and with stand-ins for what only the image has."""
    passwords = {f"{prefix}_RABBITMQ_PASSWORD": f"pw.{prefix}" for prefix in SERVICE_USERS}
    passwords["RABBITMQ_PASSWORD"] = "pw"
    script = (_ROOT / "deploy/rabbitmq/start.sh").read_text()
    for former, own in (
        ("/opt/parley", str(_ROOT / "deploy/rabbitmq")),
        ("/etc/rabbitmq", str(tmp_path / "etc")),
        ("chown -R rabbitmq:rabbitmq", "true"),
        ("exec docker-entrypoint.sh", "exec echo started"),
    ):
        assert former in script
        script = script.replace(former, own)

    def run(**changed: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": os.environ["PATH"], **passwords, **changed}
        return subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert run().stdout == "started rabbitmq-server\n"
    made = json.loads((tmp_path / "etc/parley/definitions.json").read_text())
    assert (tmp_path / "etc/parley/definitions.json").stat().st_mode & 0o077 == 0
    template = (_ROOT / "deploy/rabbitmq/definitions.json").read_text()
    assert made == json.loads(Template(template).safe_substitute(passwords, VHOST="/"))
    assert [user["name"] for user in definitions("amqp://a:b@c/", "/")["users"]] == [
        user["name"] for user in made["users"]
    ]

    for refused in ({"RABBITMQ_PASSWORD": ""}, {"GATEWAY_RABBITMQ_PASSWORD": 'x","tags":"administrator'}):
        ended = run(**refused)
        assert ended.returncode == 1
        assert next(iter(refused)) in ended.stderr


def test_rabbitmq_takes_no_larger_message_than_its_readers() -> None:
    configuration = (_ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()

    assert re.findall(r"^max_message_size = (\d+)$", configuration, re.MULTILINE) == [str(BYTES_MAX)]
