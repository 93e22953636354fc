"""`./dev test`: pytest with a Postgres and a RabbitMQ of its own, apart from the running stack."""

import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local import containers, credentials, environment, locks, ports, process, setup
from deploy.local.places import Places
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.servers import PORT_NAMES, Wanted
from deploy.local.terminal import say

# Files side by side: those of whole systems wait more than they compute. They come last, as what is quick tells more.
_SIDE_BY_SIDE = ("-n3", "--dist=loadfile")
_OF_SYSTEMS = ("tests/system", "tests/clients", "tests/docs", "tests/web", "tests/attacks")
_EVERYTHING = (
    (*_SIDE_BY_SIDE, *(f"--ignore={folder}" for folder in _OF_SYSTEMS)),
    (*_SIDE_BY_SIDE, *_OF_SYSTEMS),
)


def run(places: Places, arguments: Sequence[str]) -> int:
    """Run pytest with `arguments` and return its exit code. Several runs at once do not meet."""
    user = environment.of_user(places.root)
    with own_folder(places) as folder:
        numbers = dict(zip(PORT_NAMES, ports.free_ports(len(PORT_NAMES)), strict=True))
        wanted = Wanted(user, places, folder, numbers, credentials.made(), durable=False)
        with setup.everything(wanted) as (database, broker):
            variables = user | {"DATABASE_URL": database.url, "RABBITMQ_URL": broker.url}
            if isinstance(broker, PrivateRabbit):
                variables["RABBITMQ_MANAGEMENT_URL"] = broker.management_url
            codes = [_pytest(places, part, variables) for part in ([arguments] if arguments else _EVERYTHING)]
    return next(filter(None, codes), 0)


def _pytest(places: Places, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    say("pytest", " ".join(arguments))
    command: list[str | Path] = [places.python, "-m", "pytest", *arguments]
    return process.run_in_front(command, environment=dict(variables), directory=places.root)


@contextmanager
def own_folder(places: Places) -> Iterator[Path]:
    """A new folder for servers of a test run, removed afterwards; those of killed runs are cleared away first."""
    parent = places.servers / "test"
    parent.mkdir(exist_ok=True)
    parent.chmod(0o711)
    for old in parent.glob("run-*"):
        with locks.held(old / "lock") as abandoned:
            if abandoned:
                _clear(old)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    folder.chmod(0o711)  # the servers' account passes through
    with locks.held(folder / "lock"):
        try:
            yield folder
        finally:
            _clear(folder)


def _clear(folder: Path) -> None:
    """End the servers that may still run in `folder`, and remove it."""
    process.end_recorded(folder / "postgres.pid", signal.SIGQUIT)
    for record in folder.glob("rabbitmq/*.pid"):
        process.end_recorded(record, signal.SIGKILL)
    containers.remove(folder)
    shutil.rmtree(folder, ignore_errors=True)
