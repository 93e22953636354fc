"""The servers that fault tests stop and kill: what they promise about data."""

import subprocess

import asyncpg

from deploy.local.rabbitmq import PrivateRabbit, answers_amqp
from shared.contracts import BYTES_MAX
from tests.support.services import private_postgres, private_rabbit


async def test_postgres_keeps_committed_rows_through_a_kill() -> None:
    with private_postgres() as server:
        await _execute(server.url, "create table kept as select 1 as number")

        server.kill()
        assert not server.is_running
        server.start()

        await _execute(server.url, "select number from kept")


def test_rabbitmq_keeps_durable_queues_through_a_kill() -> None:
    with private_rabbit() as server:
        _declare_queue(server)
        # RabbitMQ tells of a new queue before its metadata store has handed it to the disk.
        server.control("eval", "mnesia:sync_log().")

        server.kill()
        server.start()
        assert "kept" in server.control("list_queues", "--vhost", "parley", "name")

        # A start more costs seconds, so what else a private server promises is seen here.
        users = server.control("list_user_permissions", "parley_gateway")
        assert "ready|cancels" in users
        assert server.control("eval", "application:get_env(rabbit, max_message_size).").strip() == f"{{ok,{BYTES_MAX}}}"

    assert not answers_amqp("127.0.0.1", server.ports.amqp)


def _declare_queue(server: PrivateRabbit) -> None:
    command = ["curl", "-sf", "-X", "PUT", f"{server.management_url}/api/queues/parley/kept", "-d", '{"durable": true}']
    subprocess.run(command, check=True)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
