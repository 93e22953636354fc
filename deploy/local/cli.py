"""The commands of `./dev`."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.local import (
    audit,
    bench,
    chart,
    containers,
    credentials,
    environment,
    fuzzing,
    postgres,
    process,
    rabbitmq,
    setup,
    stack,
    testing,
    version,
)
from deploy.local.packages import Unpacked
from deploy.local.places import Places
from deploy.local.terminal import Failure, say

_CHECKS = {
    "format": ("ruff", "format", "--check"),
    "lint": ("ruff", "check"),
    "types": ("mypy",),
    "imports": ("lint-imports",),
}
_CACHES = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache")


def main(arguments: list[str]) -> int:
    """Run one command. A foreseeable failure is one line on stderr and exit code 1."""
    signal.signal(signal.SIGTERM, _end_by_exception)
    asked = _parsed(arguments)
    command: Callable[[Places, argparse.Namespace], int] = asked.run
    try:
        return command(Places.of(), asked)
    except Failure as failure:
        sys.stdout.flush()
        print(f"dev: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # e.g. `./dev logs | head`: nobody reads any more
        return 0


def _end_by_exception(_number: int, _frame: object) -> None:
    """Make SIGTERM unwind like Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt


def _parsed(arguments: list[str]) -> argparse.Namespace:
    passing_on = {"test": _test, "soak": _soak, "psql": _psql, "ops": _ops, "bench": _bench}
    if arguments and arguments[0] in passing_on:  # all that follows is the other program's, its options too
        return argparse.Namespace(run=passing_on[arguments[0]], arguments=arguments[1:])
    parser = argparse.ArgumentParser(prog="./dev", description="Run and check Parley on this machine.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="set everything up and run the whole system; Ctrl-C stops it")
    up.add_argument("--detach", action="store_true", help="return when it is ready, and let it run")
    up.add_argument("--port", type=_port, help="the gateway's port (default: 8080, or the next free one)")
    up.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    up.set_defaults(run=_up)
    logs = commands.add_parser("logs", help="print the log of all processes, or of one")
    logs.add_argument("process", nargs="?", help="gateway, chat-worker, …, or postgres, rabbitmq, migrate, uv, web, up")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    logs.set_defaults(run=_logs)
    token = commands.add_parser("token", help="print a user's token, good for a day")
    token.add_argument("--user", required=True, metavar="NAME")
    token.set_defaults(run=_token)
    audit_ = commands.add_parser("audit", help="tell what is known against the packages used, and list these (SBOM)")
    audit_.add_argument("folder", nargs="?", type=Path, help="for the lists (default: .local/sbom)")
    audit_.set_defaults(run=_audit)
    fuzz = commands.add_parser("fuzz", help="try random bytes on what reads models' and tool servers' answers")
    fuzz.add_argument("--minutes", type=int, default=5, help="for each of the decoders (default: 5)")
    fuzz.set_defaults(run=_fuzz)
    version_ = commands.add_parser("version", help="print the version, or make another one the version everywhere")
    version_.add_argument("new", nargs="?", metavar="VERSION")
    version_.set_defaults(run=_version)
    chart_ = commands.add_parser("chart", help="render the Helm charts and check them with Kubernetes' schemas")
    chart_.add_argument("--values", type=Path, action="append", default=[], metavar="FILE", help="one more rendering")
    chart_.add_argument("--crds", type=Path, metavar="FOLDER", help="definitions of the operators' resources")
    chart_.add_argument("--write", action="store_true", help="first make anew what they have of other files")
    chart_.set_defaults(run=_chart)
    simple: dict[str, tuple[Callable[[Places, argparse.Namespace], int], str]] = {
        "down": (lambda places, _: stack.down(places), "stop what ./dev up started"),
        "status": (lambda places, _: stack.status(places), "show what runs, and whether it is ready"),
        "url": (_url, "print the base address of the running stack"),
        "check": (_check, "check format, lint, types and imports"),
        "clean": (_clean, "stop everything and remove data, programs and caches"),
    }
    for name, (run, text) in simple.items():
        commands.add_parser(name, help=text).set_defaults(run=run)
    commands.add_parser("psql", help="open the database as its owner; all arguments go to psql")
    commands.add_parser("ops", help="look at jobs, dead letters and queues, and help a stuck one; ops --help says how")
    commands.add_parser("test", help="run the tests against real servers; all arguments go to pytest")
    commands.add_parser("bench", help="measure the system beside others; bench --help says what")
    commands.add_parser(
        "soak", help="break a system of its own at random and check it; with --cross-talk, many users on it"
    )
    return parser.parse_args(arguments or ["--help"])


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65_536:  # noqa: PLR2004 - the range of ports
        raise argparse.ArgumentTypeError(f"{text} is no port: take a number from 1 to 65535")
    return int(text)


def _up(places: Places, asked: argparse.Namespace) -> int:
    if asked.detach:
        return stack.up_detached(places, asked.port)
    return stack.up(places, asked.port, echo=not asked.quiet)


def _logs(places: Places, asked: argparse.Namespace) -> int:
    if asked.follow:
        stack.follow_log(places, asked.process)
    for line in stack.log_lines(places, asked.process):
        print(line)
    return 0


def _url(places: Places, _: argparse.Namespace) -> int:
    print(stack.running(places).url)
    return 0


def _token(places: Places, asked: argparse.Namespace) -> int:
    settings = credentials.kept(places.local / "secrets.json") | {
        name: value for name, value in environment.of_user(places.root).items() if value
    }
    print(credentials.user_token(asked.user, settings))
    return 0


def _psql(places: Places, asked: argparse.Namespace) -> int:
    url = _owner_url(places)
    programs = postgres.installed() or postgres.unpacked(Unpacked(places.servers / "packages"))
    client = programs.folder / "psql" if programs and (programs.folder / "psql").exists() else shutil.which("psql")
    if client is None:
        raise Failure("found no psql: install a PostgreSQL client")
    variables = programs.environment() if programs else dict(os.environ)
    return process.run_in_front([client, url, *asked.arguments], environment=variables, directory=places.root)


def _owner_url(places: Places) -> str:
    if given := environment.of_user(places.root).get("DATABASE_URL"):
        return given
    port = stack.running(places).ports["postgres"]
    return postgres.owner_url(port, credentials.kept(places.local / "secrets.json")["postgres"])


def _ops(places: Places, asked: argparse.Namespace) -> int:
    user = environment.of_user(places.root)
    ports = stack.running(places).ports
    secrets = credentials.kept(places.local / "secrets.json")
    variables = environment.composed(
        user,
        secrets,
        ports,
        database_url=_owner_url(places),
        rabbitmq_url=user.get("RABBITMQ_URL") or rabbitmq.server_url(ports["rabbitmq"], secrets["rabbitmq"]),
        venv=places.venv,
    )
    command = [places.python, "-m", "persistence.ops", *asked.arguments]
    return process.run_in_front(command, environment=environment.of_services(variables), directory=places.root)


def _test(places: Places, asked: argparse.Namespace) -> int:
    return testing.run(places, asked.arguments)


def _bench(places: Places, asked: argparse.Namespace) -> int:
    return bench.run(places, asked.arguments)


def _soak(places: Places, asked: argparse.Namespace) -> int:
    setup.python_packages(places)
    kind = "crosstalk" if "--cross-talk" in asked.arguments else "faults"
    command: list[str | Path] = [places.python, "-m", f"tests.system.{kind}.soak", *asked.arguments]
    return process.run_in_front(command, environment=dict(os.environ), directory=places.root)


def _audit(places: Places, asked: argparse.Namespace) -> int:
    return audit.run(places, asked.folder or places.local / "sbom")


def _chart(places: Places, asked: argparse.Namespace) -> int:
    setup.python_packages(places)
    if asked.write:
        chart.write(places)
    return chart.run(places, asked.values, asked.crds)


def _fuzz(places: Places, asked: argparse.Namespace) -> int:
    return fuzzing.run(places, asked.minutes)


def _version(places: Places, asked: argparse.Namespace) -> int:
    if asked.new:
        version.change(places.root, asked.new)
    print(version.current(places.root))
    return 0


def _check(places: Places, _: argparse.Namespace) -> int:
    setup.python_packages(places)
    failed = [name for name, command in _CHECKS.items() if not _passes(places, name, command)]
    if failed:
        raise Failure(f"{', '.join(failed)} failed: see above")
    say("check", "format, lint, types and imports are in order")
    return 0


def _passes(places: Places, name: str, command: tuple[str, ...]) -> bool:
    say("check", name)
    program, *options = command
    return subprocess.run([places.venv / "bin" / program, *options], cwd=places.root, check=False).returncode == 0


def _clean(places: Places, _: argparse.Namespace) -> int:
    stack.down(places)
    containers.remove(places.servers)
    folders = [places.local, *(places.root / cache for cache in _CACHES)]
    folders += [path for path in places.root.rglob("__pycache__") if places.venv not in path.parents]
    for folder in [*filter(None, [places.outside]), *folders]:
        _remove(folder)
    say("clean", "removed data, programs and caches (the Python packages in .venv stay)")
    return 0


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise Failure(f"could not remove {folder}: is something in it another user's?")
