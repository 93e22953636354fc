"""The service: what it opens when it starts, in which order it closes, and its health over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypedDict
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from persistence import webhooks
from persistence.announce import Announcer, Dispatcher
from persistence.consumers import JOURNAL_PLACE, BatchLimits, Intake, WriteBack
from persistence.dead_letters import DeadLetters
from persistence.maintenance import Limits, Maintenance
from persistence.metrics import Metrics
from persistence.purge import Purges
from persistence.retention import Ages, Retention
from persistence.search_index import SearchIndex
from persistence.settings import PersistenceSettings
from shared.db import Database
from shared.egress import EgressPolicy, guarded_client
from shared.errors import DatabaseUnavailableError
from shared.messaging import Broker, Publisher, tell_refusals_at
from shared.metrics import CONTENT_TYPE, name_process, watch_loop
from shared.tls import trusting
from shared.tracing import traced


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that health and metrics look at."""

    database: Database
    publisher: Publisher
    intake: Intake
    write_back: WriteBack
    metrics: Metrics


class State(TypedDict):
    service: Service


def create_app(settings: PersistenceSettings) -> Starlette:
    """The application; it writes back from start to stop. A broker that is away is waited for in the background."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        async with run_service(settings) as service:
            yield {"service": service}

    routes = [Route("/health/live", _live), Route("/health/ready", _ready), Route("/metrics", _metrics)]
    return Starlette(routes=routes, lifespan=lifespan)


@asynccontextmanager
async def run_service(settings: PersistenceSettings) -> AsyncIterator[Service]:
    """Everything running. At the end: take nothing more, finish the batch in hand, tell of it, close."""
    broker = Broker(
        url=settings.rabbitmq_url.get_secret_value(),
        process=f"persistence-{uuid4().hex[:8]}",
        partition_count=settings.partition_count,
        publish_timeout_seconds=settings.publish_timeout_seconds,
        ca_file=settings.tls_ca_file,
    )
    async with AsyncExitStack() as stack:
        name_process("persistence")
        tell_refusals_at(JOURNAL_PLACE)
        stack.enter_context(traced("persistence", settings))
        stack.callback(asyncio.create_task(watch_loop()).cancel)
        database = await Database.connect(
            settings.database_url.get_secret_value(),
            application_name="persistence",
            pool_size=settings.database_pool_size,
            plans_once=True,
        )
        stack.push_async_callback(database.close)
        publisher = Publisher(broker)
        publisher.start()
        stack.push_async_callback(publisher.stop)
        dispatcher = Dispatcher(publisher, database)
        client = guarded_client(
            EgressPolicy.of(settings),
            timeout_seconds=settings.webhook_timeout_seconds,
            user_agent=webhooks.USER_AGENT,
            verify=trusting(settings.tls_ca_file),
        )
        stack.push_async_callback(client.aclose)
        sender = webhooks.Sender(database, client, _webhook_limits(settings))
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        await webhooks.keep_deployment_endpoint(database, settings.webhook_url, secret)
        sender.start()
        stack.push_async_callback(sender.stop, settings.stop_seconds)
        announcer = Announcer(publisher, dispatcher, sender.wake)
        for part in (dispatcher, announcer):
            part.start()
            stack.push_async_callback(part.stop, settings.publish_timeout_seconds)
        maintenance = Maintenance(database, publisher, announcer, dispatcher, _limits(settings))
        maintenance.start()
        stack.push_async_callback(maintenance.stop)
        retention = Retention(database, _ages(settings), round_seconds=settings.retention_round_seconds)
        retention.start()
        stack.push_async_callback(retention.stop)
        search_index = SearchIndex(
            database, round_seconds=settings.index_round_seconds, messages_max=settings.index_messages_max
        )
        search_index.start()
        stack.push_async_callback(search_index.stop)
        purges = Purges(
            database, round_seconds=settings.purge_round_seconds, settle_seconds=settings.purge_settle_seconds
        )
        purges.start()
        stack.push_async_callback(purges.stop)
        dead_letters = DeadLetters(
            broker,
            database,
            announcer,
            attempts_max=settings.attempts_max,
            retry_seconds_max=settings.retry_seconds_max,
        )
        dead_letters.start()
        stack.push_async_callback(dead_letters.stop)
        intake = Intake(broker, prefetch_count=settings.prefetch_count)
        write_back = WriteBack(intake, database, announcer, maintenance, _batch_limits(settings))
        intake.start()
        write_back.start()
        stack.push_async_callback(intake.stop)
        stack.push_async_callback(write_back.stop, settings.stop_seconds)
        stack.push_async_callback(intake.close_door)
        yield Service(database, publisher, intake, write_back, Metrics(database, publisher))


def _batch_limits(settings: PersistenceSettings) -> BatchLimits:
    return BatchLimits(
        chunks_max=settings.batch_chunks_max,
        bytes_max=settings.batch_bytes_max,
        retry_seconds_max=settings.retry_seconds_max,
        tries_max=settings.batch_tries_max,
    )


def _ages(settings: PersistenceSettings) -> Ages:
    return Ages(
        roll_up_after_seconds=settings.roll_up_after_seconds,
        tool_keys_kept_seconds=settings.tool_keys_kept_seconds,
        deleted_conversations_kept_seconds=settings.deleted_conversations_kept_seconds,
        unstored_responses_kept_seconds=settings.unstored_responses_kept_seconds,
        dead_letters_kept_seconds=settings.dead_letters_kept_seconds,
        unused_files_kept_seconds=settings.unused_files_kept_seconds,
        webhook_deliveries_kept_seconds=settings.webhook_deliveries_kept_seconds,
        conversations_kept_seconds=settings.conversations_kept_seconds,
        purges_kept_seconds=settings.purges_kept_seconds,
        audit_log_kept_seconds=settings.audit_log_kept_seconds,
    )


def _webhook_limits(settings: PersistenceSettings) -> webhooks.Limits:
    return webhooks.Limits(
        round_seconds=settings.webhook_round_seconds,
        concurrency=settings.webhook_concurrency,
        endpoint_concurrency=settings.webhook_endpoint_concurrency,
        timeout_seconds=settings.webhook_timeout_seconds,
        answer_bytes_max=settings.webhook_answer_bytes_max,
        retry_delays_seconds=settings.webhook_retry_delays_seconds,
        retry_after_seconds_max=settings.webhook_retry_after_seconds_max,
        disable_after_seconds=settings.webhook_disable_after_seconds,
    )


def _limits(settings: PersistenceSettings) -> Limits:
    return Limits(
        round_seconds=settings.maintenance_seconds,
        dispatch_grace_seconds=settings.dispatch_grace_seconds,
        wiped_broker_grace_seconds=settings.wiped_broker_grace_seconds,
        redispatch_seconds=settings.redispatch_seconds,
        lease_grace_seconds=settings.lease_grace_seconds,
        attempts_max=settings.attempts_max,
        repairs_max=settings.repairs_max,
    )


async def _live(request: Request) -> JSONResponse:
    is_running = request.state.service.write_back.is_running
    return JSONResponse({"status": "ok" if is_running else "stopped"}, status_code=200 if is_running else 503)


async def _ready(request: Request) -> JSONResponse:
    service: Service = request.state.service
    is_rabbitmq_up = service.intake.is_up and service.publisher.is_up
    states = {"postgres": await _is_up(service.database), "rabbitmq": is_rabbitmq_up}
    is_ready = all(states.values())
    return JSONResponse(
        {
            "status": "ok" if is_ready else "unavailable",
            "dependencies": {name: "up" if is_up else "down" for name, is_up in states.items()},
        },
        status_code=200 if is_ready else 503,
    )


async def _metrics(request: Request) -> Response:
    return Response(await request.state.service.metrics.text(), media_type=CONTENT_TYPE)


async def _is_up(database: Database) -> bool:
    try:
        async with asyncio.timeout(2):
            await database.ping()
    except (DatabaseUnavailableError, TimeoutError):
        return False
    return True
