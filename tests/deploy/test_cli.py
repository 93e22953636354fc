"""`./dev` as a person meets it: exit codes, and one line on stderr for each failure."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from deploy.local import stack
from deploy.local.places import Places

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "up",
    "down",
    "status",
    "logs",
    "psql",
    "ops",
    "url",
    "token",
    "test",
    "bench",
    "check",
    "audit",
    "fuzz",
    "version",
    "clean",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout with `./dev` and nothing else, in which nothing was ever started."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dev", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(Path(sys.executable).resolve())
    yield tmp_path
    if outside := Places(tmp_path, None).outside:
        shutil.rmtree(outside)


def dev(checkout: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    unset = {"JWT_SECRET", "JWT_ISSUER", "JWT_AUDIENCE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        [checkout / "dev", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def the_failure(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a failed command may say."""
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_without_a_command_it_lists_what_it_can_do(checkout: Path) -> None:
    shown = dev(checkout)

    assert shown.returncode == 0
    assert all(f"\n    {command} " in shown.stdout for command in COMMANDS)


def test_an_old_python_is_one_line_that_says_what_to_install(checkout: Path) -> None:
    old = checkout / "old"
    old.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (old / name).write_text("#!/bin/sh\nexit 1\n")
        (old / name).chmod(0o755)

    failure = the_failure(dev(checkout, "status", PATH=f"{old}:{os.environ['PATH']}"))

    assert "Python 3.11" in failure


def test_a_token_is_all_that_is_printed_and_the_stacks_secret_signs_it(checkout: Path) -> None:
    done = dev(checkout, "token", "--user", "ann")

    secret = json.loads((checkout / ".local/secrets.json").read_text())["JWT_SECRET"]
    claims = jwt.decode(done.stdout.strip(), secret, algorithms=["HS256"], audience="parley", issuer="parley")
    assert (claims["sub"], done.stderr) == ("ann", "")


def test_a_secret_in_the_env_file_signs_instead(checkout: Path) -> None:
    (checkout / ".env").write_text("JWT_SECRET=one-that-the-team-shares-0123456789\n")

    token = dev(checkout, "token", "--user", "ann").stdout.strip()

    jwt.decode(token, "one-that-the-team-shares-0123456789", algorithms=["HS256"], audience="parley")


def test_a_broken_env_file_is_one_line_that_names_the_place(checkout: Path) -> None:
    (checkout / ".env").write_text("JWT_SECRET\n")

    assert ".env line 1" in the_failure(dev(checkout, "token", "--user", "ann"))


@pytest.mark.parametrize("command", ["url", "psql", "ops"])
def test_what_needs_a_running_stack_says_how_to_start_it(checkout: Path, command: str) -> None:
    assert "./dev up" in the_failure(dev(checkout, command, DATABASE_URL=""))


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_a_port_that_was_asked_for_and_is_taken_is_one_line(checkout: Path, how: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        failure = the_failure(dev(checkout, "up", *how, "--port", port))

    assert port in failure


def test_who_started_it_in_the_background_is_not_told_of_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Output that goes to a file is of a stack in the background."""
    variables = {"JWT_SECRET": "s" * 32, "OPENAI_BASE_URL": "http://model.example/v1", "MODEL": "m"}

    stack._greet("http://127.0.0.1:1", variables, {})  # noqa: SLF001 - all else of a start takes half a minute

    told = capsys.readouterr().out
    assert "Stop with ./dev down." in told
    assert "Ctrl-C" not in told


def test_a_given_database_that_does_not_answer_is_one_line_that_names_it(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"127.0.0.1:{listener.getsockname()[1]}"
    given = {"DATABASE_URL": f"postgresql://a:b@{nobody}/c", "RABBITMQ_URL": f"amqp://a:b@{nobody}/c"}

    put_uv(checkout, "echo uv 99.0.0")

    failure = the_failure(dev(checkout, "up", **given))

    assert "DATABASE_URL" in failure
    assert nobody in failure


def put_uv(checkout: Path, script: str) -> None:
    """Put a stand-in for uv on the path of `dev`: what it installs is not what such a test is about."""
    uv = checkout / "bin/uv"
    uv.write_text(f"#!/bin/sh\n{script}\n")
    uv.chmod(0o755)


def test_a_failed_installation_is_one_line_with_uvs_reason(checkout: Path) -> None:
    put_uv(checkout, '[ "$1" = --version ] && echo uv 99.0.0 && exit\necho no network\nexit 2')

    failure = the_failure(dev(checkout, "check"))

    assert "no network" in failure
    assert ".local/logs/uv.log" in failure


def test_what_does_not_run_is_stopped_already(checkout: Path) -> None:
    assert dev(checkout, "down").returncode == 0
    assert dev(checkout, "status").returncode == 1


def test_a_log_of_an_unknown_process_names_the_known_ones(checkout: Path) -> None:
    assert "chat-worker" in the_failure(dev(checkout, "logs", "nonsense"))


def test_clean_leaves_nothing_behind(checkout: Path) -> None:
    dev(checkout, "down")  # as root it makes a folder outside the checkout, which is closed here
    outside = Places(checkout, None).outside

    assert dev(checkout, "clean").returncode == 0

    assert not (checkout / ".local").exists()
    assert outside is None or not outside.exists()
