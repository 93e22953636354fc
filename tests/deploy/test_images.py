"""How images are built, as far as that can be seen without building them; tests/system/test_compose.py builds them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy.image.launch import secrets_of

_ROOT = Path(__file__).parents[2]
_SERVICES = ("gateway", "chat-worker", "persistence", "task-tools", "demo-model")
_IMAGE = _ROOT / "deploy" / "image"


def _dockerfile(service: str) -> str:
    return (_ROOT / service / "Dockerfile").read_text()


def _without_names(service: str) -> list[str]:
    """The instructions of a Dockerfile, less what may differ: the service's name, its port, and the gateway's page."""
    text = re.sub(r"(?ms)^FROM \$\{NODE_IMAGE\} AS page$.*?^$\n", "", _dockerfile(service))
    text = re.sub(r"(?m)^(ARG NODE_IMAGE|COPY --link --from=page|COPY shared|#).*\n", "", text).replace("./shared ", "")
    text = re.sub(r"(?m)^    [A-Z_]+_HOST=0\.0\.0\.0 .*$", "    …", text)
    text = text.replace(service, "…").replace(service.replace("-", "_"), "…")
    return re.sub(r"\b80\d\d\b", "…", text).splitlines()


@pytest.mark.parametrize("service", _SERVICES[1:])
def test_all_are_built_the_same_way(service: str) -> None:
    assert _without_names(service) == _without_names(_SERVICES[0])


@pytest.mark.parametrize("service", _SERVICES)
def test_an_image_says_who_it_is_how_it_is_stopped_and_whether_it_is_well(service: str) -> None:
    final = _dockerfile(service).rpartition("\nFROM ")[2]
    port = re.search(r"_PORT=(\d+)", final)

    assert port
    assert re.findall(r"(?m)^USER (.+)$", final) == ["10001:10001"], "a name is not known to be no root"
    assert re.findall(r"(?m)^EXPOSE (.+)$", final) == [port[1]]
    assert f'"/usr/local/bin/healthy", "{port[1]}"]' in final
    assert "STOPSIGNAL SIGTERM" in final
    assert f'CMD ["parley", "{service.replace("-", "_")}"]' in final
    for label in ("version", "revision"):
        assert f'org.opencontainers.image.{label}="${{{label.upper()}}}"' in final


@pytest.mark.parametrize("service", _SERVICES)
def test_an_image_can_be_built_behind_a_mirror(service: str) -> None:
    text = _dockerfile(service)
    stages = set(re.findall(r" AS (\w+)$", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages

    assert bases <= {"${PYTHON_IMAGE}", "${NODE_IMAGE}"}
    assert not re.search(r"# *syntax=|https?://|curl|wget|apt", text), "something is fetched from an address of its own"
    for line in re.findall(r"(?:pip install|npm ci) .*", text.replace("\\\n", " ")):
        assert "${PYPI_INDEX_URL:+" in line or "${NPM_REGISTRY:+" in line


@pytest.mark.parametrize("service", _SERVICES)
def test_what_an_image_copies_is_in_its_context(service: str) -> None:
    allowed = (_ROOT / ".dockerignore").read_text()
    copied = re.findall(r"(?m)^COPY (?!.*--from)(?:--\S+ )*(.+) \S+$", _dockerfile(service))

    for path in " ".join(copied).split():
        assert (_ROOT / path).exists(), path
    assert not re.search(r"(?m)^COPY \. ", _dockerfile(service)), "any change would change every layer"
    for pattern in ("!pyproject.toml", "!uv.lock", "!*/pyproject.toml", "!*/src/**", "!deploy/image/*.py"):
        assert pattern in allowed


def test_secrets_of_files_are_variables_unless_the_environment_sets_them(tmp_path: Path) -> None:
    for name, value in {
        "JWT_SECRET": "a\n",
        "MODEL": "b",
        "EMPTY": "c",
        "tls.key": "d",
        ".JWT_SECRET.new": "e",
    }.items():
        (tmp_path / name).write_text(value)

    assert secrets_of(tmp_path, {"MODEL": "given", "EMPTY": ""}) == {"JWT_SECRET": "a", "EMPTY": "c"}
    assert secrets_of(tmp_path / "missing", {}) == {}


def test_a_stop_is_heard_while_the_service_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('loading', flush=True)\nwhile True:\n    time.sleep(0.01)\n")

    with subprocess.Popen(
        [sys.executable, _IMAGE / "launch.py", "slow"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "loading\n"
        process.terminate()

        assert process.wait(timeout=60) == 128 + 15


def test_what_is_open_is_closed_at_a_stop_and_python_itself_is_not_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "open.py").write_text(
        "import atexit, time\n"
        "atexit.register(print, 'taken apart')\n"
        "try:\n    print('open', flush=True)\n    while True:\n        time.sleep(0.01)\n"
        "finally:\n    print('closed')\n"
    )

    with subprocess.Popen(
        [sys.executable, _IMAGE / "launch.py", "open"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        process.terminate()

        assert process.stdout.read() == "closed\n"
        assert process.wait(timeout=60) == 128 + 15


def test_a_module_is_run_as_python_would_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    command: list[str | Path] = [sys.executable, _IMAGE / "launch.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    shown = subprocess.run(
        [*command, "shown", "--one", "2"], env=environment, capture_output=True, text=True, check=True
    )
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert shown.stdout == "__main__ ['--one', '2']\n"
    assert refused.returncode == 1
    assert "usage: parley MODULE" in refused.stderr


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/ready" else 503)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as it is called there
        """Nothing."""


@contextmanager
def _serving() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_service_is_healthy_when_it_says_that_it_is_ready() -> None:
    def look(*arguments: str) -> int:
        command: list[str | Path] = [sys.executable, "-I", "-S", _IMAGE / "healthy.py", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    with _serving() as port:
        assert look(str(port)) == 0
        assert look(str(port), "/other") == 1
    assert look(str(port)) == 1
