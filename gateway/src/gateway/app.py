"""The gateway, put together: opens what it needs, wires it, closes it in reverse."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import openapi
from gateway.answers import Answers
from gateway.completions import Completions
from gateway.deps import Services
from gateway.dispatch import Dispatcher
from gateway.feed import Feeds
from gateway.limits import Slots
from gateway.live import Live
from gateway.problems import install_problems
from gateway.routes import (
    chat,
    chat_completions,
    conversations,
    files,
    health,
    models,
    responses,
    tasks,
    usage,
    v1_conversations,
    webhooks,
)
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.messaging import Broker, Publisher
from shared.tool_servers import tool_servers_or_exit


def create_app(settings: GatewaySettings, stopping: asyncio.Event | None = None) -> FastAPI:
    """The application. Setting `stopping` ends its open streams and waits, so that the server can stop."""
    stopping = stopping or asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, stopping) as services:
            app.state.services = services
            yield

    app = FastAPI(
        **openapi.DOCUMENT,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url="/docs" if settings.shows_docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.shows_docs else None,
    )
    install_problems(app)
    app.include_router(health.router)
    app.include_router(responses.router)
    app.include_router(v1_conversations.router)
    app.include_router(v1_conversations.events_router)
    app.include_router(models.router)
    app.include_router(usage.router)
    app.include_router(files.router)
    app.include_router(chat_completions.router)
    app.include_router(webhooks.router)
    # The longer prefix first, or `/api/{user_id}/chat` would take `v1` for a user.
    for prefix in ("/api/v1", "/api"):
        for noun in (chat, conversations, tasks):
            app.include_router(noun.router, prefix=prefix, include_in_schema=prefix == "/api")
    return app


@asynccontextmanager
async def open_services(settings: GatewaySettings, stopping: asyncio.Event) -> AsyncIterator[Services]:
    """Postgres must be there; RabbitMQ may come later, as accepted messages wait for it."""
    tool_servers = tool_servers_or_exit(settings.tool_servers_file, "gateway")
    broker = Broker(
        url=settings.rabbitmq_url.get_secret_value(),
        process=f"gateway-{os.getpid()}",
        partition_count=settings.partition_count,
        publish_timeout_seconds=settings.publish_timeout_seconds,
    )
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        application_name="gateway",
        pool_size=settings.database_pool_size,
        command_seconds=settings.database_seconds_max,
    )
    completions = Completions(database, settings, stopping)
    publisher, live = Publisher(broker), Live(broker)
    dispatcher = Dispatcher(publisher, database)
    publisher.start()
    live.start()
    dispatcher.start()
    try:
        yield Services(
            settings=settings,
            database=database,
            publisher=publisher,
            answers=Answers(database, dispatcher, live, settings, stopping),
            feeds=Feeds(database, dispatcher, live, settings, stopping),
            transfers=Slots("transfers", settings.transfers_per_user_max),
            completions=completions,
            tool_servers=tool_servers,
        )
    finally:
        await dispatcher.stop()
        await live.stop()
        await publisher.stop()
        await completions.close()
        await database.close()
