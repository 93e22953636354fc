"""`./dev bench`: the benches with a Postgres and a RabbitMQ of their own, durable as they would be in earnest."""

from collections.abc import Sequence
from pathlib import Path

from deploy.local import credentials, environment, ports, process, setup
from deploy.local.places import Places
from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.servers import PORT_NAMES, Wanted
from deploy.local.testing import own_folder


def run(places: Places, arguments: Sequence[str]) -> int:
    """Run the benches with `arguments` and return their exit code."""
    user = environment.of_user(places.root)
    with own_folder(places) as folder:
        numbers = dict(zip(PORT_NAMES, ports.free_ports(len(PORT_NAMES)), strict=True))
        with setup.everything(Wanted(user, places, folder, numbers, credentials.made())) as (database, broker):
            variables = user | {"DATABASE_URL": database.url, "RABBITMQ_URL": broker.url}
            if isinstance(database, PrivatePostgres):
                variables["BENCH_POSTGRES_PID"] = str(database.pid)
            if isinstance(broker, PrivateRabbit):
                variables["BENCH_RABBITMQ_PID"] = str(broker.pid)
                variables["RABBITMQ_MANAGEMENT_URL"] = broker.management_url
            command: list[str | Path] = [places.python, "-m", "bench", *arguments]
            return process.run_in_front(command, environment=variables, directory=places.root)
