"""What the processes of the stack find in their environment.

What the user sets, in the environment or in `.env`, wins over everything that is made up here.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from deploy.local.credentials import role_password
from deploy.local.ports import LOOPBACK
from deploy.local.rabbitmq import service_urls, service_variables
from deploy.local.terminal import Failure

SERVICES = ("gateway", "chat-worker", "persistence", "task-tools")
DEMO_MODEL = "demo-model"
_DATABASE_ROLES = {
    "GATEWAY": "parley_gateway",
    "CHAT_WORKER": "parley_worker",
    "PERSISTENCE": "parley_persistence",
    "TASK_TOOLS": "parley_tools",
}
_ASSIGNMENT = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_OPENAI_URL = "https://api.openai.com/v1"


def of_user(root: Path) -> dict[str, str]:
    """The user's settings: the environment, and below it `.env` at the root if there is one."""
    file = root / ".env"
    return (parsed(file.read_text()) if file.exists() else {}) | dict(os.environ)


def parsed(text: str) -> dict[str, str]:
    """The assignments of an env file: KEY=VALUE lines, `#` comments, `export`, and quotes around a value.

    Raises Failure that names the first line it does not understand.
    """
    values: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise Failure(f".env line {number} is not KEY=VALUE: correct or remove it")
        values[match["name"]] = _unquoted(match["value"])
    return values


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()


def brings_a_model(user: Mapping[str, str]) -> bool:
    """Whether the user names a model endpoint; then the demo model stays off."""
    return bool(user.get("OPENAI_API_KEY") or user.get("OPENAI_BASE_URL"))


def processes(user: Mapping[str, str]) -> tuple[str, ...]:
    """The processes of the stack, by their names in the Procfile."""
    return SERVICES if brings_a_model(user) else (*SERVICES, DEMO_MODEL)


def variable(process: str, suffix: str) -> str:
    """The name of a process's own variable: `variable("chat-worker", "PORT")` is CHAT_WORKER_PORT."""
    return f"{process.replace('-', '_').upper()}_{suffix}"


def composed(  # noqa: PLR0913 - the parts are these
    user: Mapping[str, str],
    secrets: Mapping[str, str],
    ports: Mapping[str, int],
    *,
    database_url: str,
    rabbitmq_url: str,
    venv: Path,
) -> dict[str, str]:
    """The environment of every process; `ports` has one for each process's HTTP server.

    DATABASE_URL, the owner's connection, is in it for the migration; `of_services` takes it away.
    """
    defaults = {
        "PARLEY_PROFILE": "local",
        "LOG_FORMAT": "console",
        "LOG_LEVEL": "info",
        "DEMO_MODEL_DIRECTIVES": "1",
        "JWT_SECRET": secrets["JWT_SECRET"],
        "TOOL_TOKEN_SECRET": secrets["TOOL_TOKEN_SECRET"],
        "TASK_TOOLS_URL": f"http://{LOOPBACK}:{ports['task-tools']}/mcp",
        "PYTHONUNBUFFERED": "1",
        **_database_urls(user, secrets, database_url),
        # A server that somebody else runs has the users that they made.
        **({} if user.get("RABBITMQ_URL") else service_urls(rabbitmq_url)),
        **_model(user, ports),
    }
    fixed = {
        "DATABASE_URL": database_url,
        "RABBITMQ_URL": rabbitmq_url,
        "PATH": f"{venv / 'bin'}{os.pathsep}{user.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(venv),
        **{variable(process, "PORT"): str(ports[process]) for process in processes(user)},
        # Proxies are for the outside; the processes talk to each other over loopback.
        **{name: _with_loopback(user.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
    }
    return defaults | {name: value for name, value in user.items() if value or name not in defaults} | fixed


def of_services(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the connections of owner and administrator, which no service may have.

    RABBITMQ_URL stays where it is the services' own.
    """
    kept_out = {"DATABASE_URL"}
    if all(environment.get(name) for name in service_variables()):
        kept_out.add("RABBITMQ_URL")
    return {name: value for name, value in environment.items() if name not in kept_out}


def _database_urls(user: Mapping[str, str], secrets: Mapping[str, str], database_url: str) -> dict[str, str]:
    given = bool(user.get("DATABASE_URL"))
    return {
        f"{service}_DATABASE_URL": with_credentials(
            database_url, role, role_password(role, database_url) if given else secrets[role]
        )
        for service, role in _DATABASE_ROLES.items()
    }


def with_credentials(url: str, user: str, password: str) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def _model(user: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    if not brings_a_model(user):
        return {
            "OPENAI_BASE_URL": f"http://{LOOPBACK}:{ports[DEMO_MODEL]}/v1",
            "OPENAI_API_KEY": "demo",
            "MODEL": "demo",
            "MODEL_INPUTS": "text,image,file",
        }
    if not user.get("MODEL"):
        raise Failure("OPENAI_API_KEY or OPENAI_BASE_URL is set, but not MODEL: set it to a model of that endpoint")
    return {"OPENAI_BASE_URL": _OPENAI_URL, "OPENAI_API_KEY": "unused"}  # local endpoints ask for no key


def _with_loopback(names: str) -> str:
    return ",".join([*filter(None, [names]), LOOPBACK, "localhost"])
