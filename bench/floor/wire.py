"""What the floor's three processes tell each other, and the broker's queues between them."""

import os
import uuid

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aiormq.abc import FieldTable

PARTITIONS = 4
JOBS = "floor.jobs"
LIVE = "floor.live"

DATABASE_URL = os.environ.get("DATABASE_URL", "")
RABBITMQ_URL = os.environ.get("RABBITMQ_URL", "")

_QUORUM: FieldTable = {"x-queue-type": "quorum"}


class Job(msgspec.Struct):
    id: uuid.UUID
    conversation_id: uuid.UUID


class Chunk(msgspec.Struct):
    """Events that follow each other. `answer` is there with the last one."""

    job_id: uuid.UUID
    conversation_id: uuid.UUID
    first_seq: int
    events: list[msgspec.Raw]
    answer: str | None = None


class Live(msgspec.Struct):
    """What was just committed."""

    chunks: list[Chunk]


encode = msgspec.json.encode
decode_job = msgspec.json.Decoder(Job).decode
decode_chunks = msgspec.json.Decoder(list[Chunk]).decode


def journal_queue(number: int) -> str:
    return f"floor.journal.{number}"


def partition_of(conversation_id: uuid.UUID) -> int:
    return conversation_id.int % PARTITIONS


async def declare(channel: AbstractChannel) -> AbstractExchange:
    """Every queue; whoever comes first makes them. Returns the exchange of live events."""
    await channel.declare_queue(JOBS, durable=True, arguments=_QUORUM)
    for number in range(PARTITIONS):
        arguments: FieldTable = {**_QUORUM, "x-single-active-consumer": True}
        await channel.declare_queue(journal_queue(number), durable=True, arguments=arguments)
    return await channel.declare_exchange(LIVE, aio_pika.ExchangeType.FANOUT, durable=True)


async def queue(channel: AbstractChannel, name: str) -> AbstractQueue:
    return await channel.get_queue(name, ensure=False)


def persistent(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
