"""The chat worker: opens what attempts work with, takes jobs while it may, and lets go of them when it must stop."""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
from aiormq.exceptions import AMQPError
from faststream import AckPolicy
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage

from chat_worker import metrics
from chat_worker.agent.model import OpenAIModel
from chat_worker.agent.tools import McpTools, ToolServer
from chat_worker.consumers import take_delivery, undecoded
from chat_worker.control import Control
from chat_worker.leases import DatabaseClock, Leases, StopReason
from chat_worker.outgoing import Outgoing
from chat_worker.runner import Runner, RunnerLimits, Worker
from chat_worker.settings import ChatWorkerSettings
from chat_worker.summaries import Summaries
from chat_worker.titles import Titles
from chat_worker.tool_pins import StoredPins
from shared.agents import TASKS_SERVER
from shared.db import Database
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.ids import uuid7
from shared.messaging import (
    CONTROL,
    HOW_TO_GRANT,
    JOBS,
    Broker,
    BrokerRefusedError,
    Listener,
    Permission,
    Publisher,
    jobs_queue,
    needing,
    refusal_of,
    see_queue,
    tell_refusals_at,
)
from shared.metrics import CONTENT_TYPE, name_process, text_of, watch_loop
from shared.model_calls import tell_calls_for
from shared.observability import get_logger
from shared.supervision import stop_process, supervised
from shared.tls import trusting
from shared.tokens import TASK_TOOLS_AUDIENCE, mint_tool_token
from shared.tool_servers import ToolPolicy, ToolServersFile, tool_servers_or_exit
from shared.tracing import traced

log = get_logger()

_START_RETRY_SECONDS = 1.0
_LOOKS = 3
_SETTLE_SECONDS = 5.0  # for stopped attempts to hand their deliveries back


@dataclass(frozen=True, slots=True)
class _Process:
    """What is open while the process runs."""

    database: Database
    publisher: Publisher
    listener: Listener
    leases: Leases
    runner: Runner
    consumer: RabbitBroker

    async def states(self) -> dict[str, str]:
        return {
            "postgres": _word(is_up=await self._database_answers()),
            "rabbitmq_jobs": _word(is_up=await self.consumer.ping(timeout=1)),
            "rabbitmq_publisher": _word(is_up=self.publisher.is_up),
            "rabbitmq_control": _word(is_up=self.listener.is_up),
        }

    async def _database_answers(self) -> bool:
        try:
            await self.database.ping()
        except DatabaseUnavailableError:
            return False
        return True


def create_app(settings: ChatWorkerSettings) -> AsgiFastStream:
    """The worker as an ASGI application, whose HTTP side is health and metrics only."""
    tool_servers = tool_servers_or_exit(settings.tool_servers_file, "chat-worker", os.environ)
    worker_id = f"{platform.node()}.{os.getpid()}.{uuid7().hex[-8:]}"
    broker = _broker(settings, worker_id)
    consumer = _JobsBroker(
        broker,
        f"{broker.connection_url}&name={quote(f'parley chat-worker {worker_id} jobs')}",
        fail_fast=False,
        reconnect_interval=0.5,
        graceful_timeout=_SETTLE_SECONDS,
        logger=None,
        apply_types=False,  # what it would pass in, it would look up in a thread, for each delivery
    )
    opened: list[_Process] = []

    async def take(message: RabbitMessage) -> None:
        await take_delivery(message, opened[0].runner)

    consumer.subscriber(
        jobs_queue,
        channel=Channel(prefetch_count=settings.concurrency),  # a delivery that is taken runs at once
        ack_policy=AckPolicy.MANUAL,
        no_reply=True,
        decoder=undecoded,
    )(take)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with _open(settings, worker_id, broker, consumer, tool_servers) as process:
            opened.append(process)
            yield
            opened.clear()

    @get(include_in_schema=False)
    async def live(_scope: Any) -> AsgiResponse:
        return _json(200, {"status": "ok"})

    @get(include_in_schema=False)
    async def ready(_scope: Any) -> AsgiResponse:
        states = await opened[0].states()
        is_ready = all(state == "up" for state in states.values())
        return _json(200 if is_ready else 503, {"status": "ok" if is_ready else "unavailable", "dependencies": states})

    @get(include_in_schema=False)
    async def told(_scope: Any) -> AsgiResponse:
        return AsgiResponse(text_of(), 200, headers={"content-type": CONTENT_TYPE})

    async def let_go() -> None:
        await _stop_taking(consumer)
        await _finish_or_stop(opened[0], settings.grace_seconds)

    return AsgiFastStream(
        consumer,
        logger=None,
        lifespan=lifespan,
        on_shutdown=[let_go],
        asgi_routes=[("/health/live", live), ("/health/ready", ready), ("/metrics", told)],
    )


def _broker(settings: ChatWorkerSettings, worker_id: str) -> Broker:
    return Broker(
        settings.rabbitmq_url.get_secret_value(),
        f"chat-worker {worker_id}",
        settings.partition_count,
        settings.publish_timeout_seconds,
        ca_file=settings.tls_ca_file,
        declares=False,
    )


class _JobsBroker(RabbitBroker):
    """Waits for a RabbitMQ that is not there yet: then the process is alive, and says that it is not ready."""

    def __init__(self, broker: Broker, url: str, **options: Any) -> None:
        self._broker = broker
        super().__init__(url, **options)

    async def start(self) -> None:
        """Raises BrokerRefusedError where waiting does not help."""
        while True:
            try:
                await see_queue(self._broker, JOBS)
                with needing(Permission.READ):
                    return await super().start()
            except (AMQPError, OSError, TimeoutError, RuntimeError, BrokerRefusedError) as error:
                if refusal := refusal_of(error):
                    log.error("broker_access_refused", link="jobs", cause=str(refusal), see=HOW_TO_GRANT)  # noqa: TRY400
                    stop_process()  # FastStream starts its brokers beside the application, which would stay alone
                    raise refusal from error
                log.warning("jobs_queue_awaited", cause=type(error).__name__)
                await self.stop()
            await asyncio.sleep(_START_RETRY_SECONDS)


@asynccontextmanager
async def _open(
    settings: ChatWorkerSettings, worker_id: str, broker: Broker, consumer: RabbitBroker, tool_servers: ToolServersFile
) -> AsyncIterator[_Process]:
    """Open everything, in the order of dependence; close it in reverse."""
    async with AsyncExitStack() as stack:
        name_process("chat-worker")
        tell_refusals_at(JOBS, CONTROL)
        tell_calls_for("answer", "summary", "title")
        metrics.SLOTS.set(settings.concurrency)
        stack.enter_context(traced("chat-worker", settings))
        await stack.enter_async_context(_running(watch_loop(), "loop watch"))
        database = await Database.connect(
            settings.database_url.get_secret_value(),
            application_name="chat-worker",
            pool_size=settings.database_pool_size,
            plans_once=True,
        )
        stack.push_async_callback(database.close)

        publisher = Publisher(broker)
        publisher.start()
        stack.push_async_callback(publisher.stop)
        outgoing = Outgoing(publisher.send_bytes, settings.partition_count, settings.outgoing_limits())
        await stack.enter_async_context(_running(outgoing.run(), "outgoing"))

        leases = Leases(database, worker_id, settings.lease_seconds)
        await stack.enter_async_context(_running(leases.run(), "leases"))
        control = Control(
            publisher,
            lambda: listener.queue,
            leases.cancel_signalled,
            partition_count=settings.partition_count,
            ask_seconds=settings.resume_ask_seconds,
            wait_seconds_max=settings.resume_seconds_max,
        )
        listener = Listener(broker, CONTROL, control.on_message, on_up=leases.check_soon)
        listener.start()
        stack.push_async_callback(listener.stop)

        api_key, limits = settings.openai_api_key.get_secret_value(), settings.model_limits()
        verify = trusting(settings.tls_ca_file)
        model = OpenAIModel(settings.openai_base_url, api_key, settings.model, limits=limits, verify=verify)
        stack.push_async_callback(model.close)
        tools = await stack.enter_async_context(
            McpTools(
                [_task_tools(settings, leases.clock)],
                settings.tool_client_limits(),
                tool_servers.current,
                pins=StoredPins(database),
                on_change=settings.tool_pins,
                verify=verify,
                now=leases.clock.now,
            )
        )
        titles = Titles(model, database, outgoing.send, settings.title_limits())
        stack.push_async_callback(titles.stop)
        summaries = Summaries(model, outgoing.send, settings.summary_limits(), settings.prompt_limits())
        runner = Runner(
            Worker(
                database=database,
                leases=leases,
                outgoing=outgoing,
                resumer=control,
                model=model,
                tools=tools,
                limits=_runner_limits(settings),
                turn_limits=settings.turn_limits(),
                prompt_limits=settings.prompt_limits(),
                summaries=summaries if settings.summaries_enabled else None,
                titles=titles if settings.titles_enabled else None,
            )
        )
        watch = _watch_intake(runner, leases, publisher, settings)
        await stack.enter_async_context(_running(watch, "intake watch"))
        log.info("worker_opened", worker_id=worker_id, concurrency=settings.concurrency, model=settings.model)
        yield _Process(database, publisher, listener, leases, runner, consumer)


def _task_tools(settings: ChatWorkerSettings, clock: DatabaseClock) -> ToolServer:
    secret = settings.tool_token_secret.get_secret_value()
    return ToolServer(
        TASKS_SERVER,
        settings.task_tools_url,
        lambda user_id: mint_tool_token(secret, user_id, TASK_TOOLS_AUDIENCE, now=clock.now()),
        policy=ToolPolicy(settings.task_tools_approval),
    )


def _runner_limits(settings: ChatWorkerSettings) -> RunnerLimits:
    return RunnerLimits(
        claim_seconds_max=settings.claim_seconds_max,
        turn_seconds_max=settings.turn_seconds_max,
        flush_seconds_max=settings.flush_seconds_max,
        attempts_max=settings.attempts_max,
        release_delays_seconds=settings.release_delays_seconds,
        release_delay_seconds_max=settings.release_delay_seconds_max,
        history=settings.history_limits(),
    )


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run `work` beside the body. The process is of no use without it, so it stops where that ends by itself."""
    task = supervised(work, name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch_intake(runner: Runner, leases: Leases, publisher: Publisher, settings: ChatWorkerSettings) -> None:
    """Fail where jobs wait and none comes though there is room: a consumer can be lost without a word."""
    while True:
        count = runner.delivery_count
        await asyncio.sleep(settings.intake_watch_seconds)
        for _ in range(_LOOKS):  # a message may be on its way at the moment of a look
            await asyncio.sleep(1)
            is_idle = runner.delivery_count == count and leases.held_count < settings.concurrency
            if not is_idle or not await _jobs_wait(publisher):
                break
        else:
            raise RuntimeError("jobs wait, and the broker delivers none")


async def _jobs_wait(publisher: Publisher) -> bool:
    try:
        return await publisher.queue_length(JOBS) > 0
    except BrokerUnavailableError:
        return False


async def _stop_taking(consumer: RabbitBroker) -> None:
    """Take no more deliveries. FastStream does so only after it waited for those that run, and drops what comes."""
    for subscriber in consumer.subscribers:
        queue, tag = subscriber._queue_obj, subscriber._consumer_tag  # type: ignore[attr-defined]  # noqa: SLF001
        if queue is None or tag is None:
            continue
        subscriber._consumer_tag = None  # type: ignore[attr-defined]  # noqa: SLF001
        with suppress(AMQPError, OSError, TimeoutError, RuntimeError):  # without a connection nothing comes anyway
            await asyncio.wait_for(queue.cancel(tag), 2)


async def _finish_or_stop(process: _Process, grace_seconds: float) -> None:
    """Give what runs `grace_seconds` to end, then stop it, so that another worker goes on at once."""
    process.runner.drain()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.leases.none_held(), grace_seconds)
    process.leases.stop_all(StopReason.SHUTDOWN)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.leases.none_held(), _SETTLE_SECONDS)


def _word(*, is_up: bool) -> str:
    return "up" if is_up else "down"


def _json(status: int, body: dict[str, Any]) -> AsgiResponse:
    return AsgiResponse(msgspec.json.encode(body), status, {"Content-Type": "application/json"})
