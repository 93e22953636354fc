"""The env file, and what the processes find in their environment."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local import credentials, environment
from deploy.local.terminal import Failure

PORTS = {"gateway": 8080, "chat-worker": 20_001, "persistence": 20_002, "task-tools": 20_003, "demo-model": 20_004}
SECRETS = {name: f"secret of {name}" for name in credentials.NAMES}
ADMINISTRATOR = "amqp://parley:pw@127.0.0.1:5672/parley"
OWNER = "postgresql://owner:pw@db.example:5433/shop?sslmode=require"


def composed(user: dict[str, str]) -> dict[str, str]:
    return environment.composed(
        user,
        SECRETS,
        PORTS,
        database_url=user.get("DATABASE_URL", OWNER),
        rabbitmq_url=user.get("RABBITMQ_URL", ADMINISTRATOR),
        venv=Path("/venv"),
    )


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=plain", "plain"),
        ("KEY = spaced ", "spaced"),
        ("export KEY=exported", "exported"),
        ("KEY='in # quotes'", "in # quotes"),
        ('KEY="a=b"', "a=b"),
        ("KEY=value # a remark", "value"),
        ("KEY=colour#fff", "colour#fff"),
        ("KEY=", ""),
    ],
)
def test_an_assignment_is_read_as_people_write_it(line: str, value: str) -> None:
    assert environment.parsed(f"# remark\n\n{line}\n") == {"KEY": value}


def test_a_line_that_is_no_assignment_is_named() -> None:
    with pytest.raises(Failure, match="line 2"):
        environment.parsed("A=1\nnonsense\n")


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MODEL=from-file\nLOG_LEVEL=debug\n")
    monkeypatch.setenv("MODEL", "from-environment")

    found = environment.of_user(tmp_path)

    assert (found["MODEL"], found["LOG_LEVEL"]) == ("from-environment", "debug")


def test_every_service_gets_a_role_of_its_own_on_the_same_database() -> None:
    variables = composed({})

    assert variables["GATEWAY_DATABASE_URL"].startswith(
        "postgresql://parley_gateway:secret%20of%20parley_gateway@db.example"
    )
    assert variables["TASK_TOOLS_DATABASE_URL"].endswith("@db.example:5433/shop?sslmode=require")


def test_checkouts_that_share_a_given_server_agree_on_the_passwords() -> None:
    first, second = composed({"DATABASE_URL": OWNER}), composed({"DATABASE_URL": OWNER})

    assert first["CHAT_WORKER_DATABASE_URL"] == second["CHAT_WORKER_DATABASE_URL"]
    assert "secret" not in first["CHAT_WORKER_DATABASE_URL"]


def test_services_never_see_the_owners_connection() -> None:
    variables = composed({})

    assert variables["DATABASE_URL"] == OWNER
    assert variables["RABBITMQ_URL"] == ADMINISTRATOR
    assert not {"DATABASE_URL", "RABBITMQ_URL"} & set(environment.of_services(variables))


def test_every_service_has_a_user_of_its_own_on_our_rabbitmq() -> None:
    variables = composed({})

    urls = {urlsplit(variables[f"{service}_RABBITMQ_URL"]) for service in ("GATEWAY", "CHAT_WORKER", "PERSISTENCE")}
    assert {url.username for url in urls} == {"parley_gateway", "parley_worker", "parley_persistence"}
    assert len({url.password for url in urls} | {"pw"}) == 4
    assert {(url.hostname, url.port, url.path) for url in urls} == {("127.0.0.1", 5672, "/parley")}


def test_a_rabbitmq_of_somebody_elses_is_used_with_the_user_that_is_given() -> None:
    variables = environment.of_services(composed({"RABBITMQ_URL": "amqp://own:pw@mq.example/"}))

    assert variables["RABBITMQ_URL"] == "amqp://own:pw@mq.example/"
    assert "GATEWAY_RABBITMQ_URL" not in variables


def test_the_demo_model_answers_unless_the_user_brings_a_model() -> None:
    assert composed({})["OPENAI_BASE_URL"] == "http://127.0.0.1:20004/v1"
    assert "demo-model" in environment.processes({})


@pytest.mark.parametrize(
    ("user", "url"),
    [
        ({"OPENAI_API_KEY": "sk-1", "MODEL": "m"}, "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://localhost:11434/v1", "MODEL": "m"}, "http://localhost:11434/v1"),
    ],
)
def test_a_model_of_the_users_replaces_the_demo_model(user: dict[str, str], url: str) -> None:
    variables = composed(user)

    assert variables["OPENAI_BASE_URL"] == url
    assert variables["OPENAI_API_KEY"]
    assert "demo-model" not in environment.processes(user)


def test_a_model_endpoint_without_a_model_is_refused() -> None:
    with pytest.raises(Failure, match="MODEL"):
        composed({"OPENAI_API_KEY": "sk-1"})


def test_proxies_of_the_user_do_not_come_between_the_processes() -> None:
    assert composed({"NO_PROXY": "intranet"})["NO_PROXY"] == "intranet,127.0.0.1,localhost"
