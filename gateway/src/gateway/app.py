"""The gateway, put together: opens what it needs, wires it, closes it in reverse."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.middleware.cors import CORSMiddleware

from gateway import metrics, openapi
from gateway.answers import Answers
from gateway.application import Application
from gateway.auth import Authenticator
from gateway.completions import USE, Completions
from gateway.cors import cors_options
from gateway.denials import Denials
from gateway.deps import Services
from gateway.dispatch import Dispatcher
from gateway.feed import Feeds
from gateway.headers import SecurityHeaders
from gateway.keys import ProviderKeys
from gateway.limits import Slots
from gateway.live import Live
from gateway.problems import install_problems
from gateway.rates import AddressRates, Rates, RequestRates
from gateway.routes import (
    account,
    admin,
    chat,
    chat_completions,
    conversations,
    docs,
    feedback,
    files,
    health,
    models,
    page,
    responses,
    shares,
    tasks,
    usage,
    v1_conversations,
    webhooks,
)
from gateway.routes import (
    sessions as session_routes,
)
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from gateway.until import Signal
from shared.db import Database
from shared.messaging import CANCELS, LIVE, Broker, Publisher, tell_refusals_at
from shared.metrics import name_process, watch_loop
from shared.model_calls import tell_calls_for
from shared.settings import Profile
from shared.tool_servers import tool_servers_or_exit
from shared.tracing import traced


def create_app(settings: GatewaySettings, stopping: Signal | None = None) -> Application:
    """The application. Setting `stopping` ends its open streams and waits, so that the server can stop."""
    stopping = stopping or Signal()

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        _build_routes(app)
        name_process("gateway")
        tell_refusals_at(LIVE)
        tell_calls_for(USE)
        with traced("gateway", settings):
            async with open_services(settings, stopping) as services:
                app.state.services = services
                yield

    app = Application(
        **openapi.DOCUMENT,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=docs.OPENAPI_PATH if settings.shows_docs else None,
    )
    app.state.stopping = stopping
    app.state.rates = RequestRates(settings)
    _install_middleware(app, settings)
    app.include_router(health.router)
    if settings.shows_docs:
        app.include_router(docs.router)
    if settings.shows_metrics:
        app.add_api_route("/metrics", metrics.answer_metrics, include_in_schema=False)
    app.include_router(responses.router)
    app.include_router(feedback.router)
    app.include_router(v1_conversations.router)
    app.include_router(v1_conversations.events_router)
    app.include_router(shares.router)
    app.include_router(shares.public_router)
    app.include_router(models.router)
    app.include_router(usage.router)
    app.include_router(files.router)
    app.include_router(chat_completions.router)
    app.include_router(webhooks.router)
    app.include_router(session_routes.router)
    if settings.profile is Profile.LOCAL:
        app.include_router(session_routes.dev_router)
    app.include_router(admin.router)
    # The longer prefix first, or `/api/{user_id}/chat` would take `v1` for a user.
    for prefix in ("/api/v1", "/api"):
        for noun in (chat, conversations, tasks, account):
            app.include_router(noun.router, prefix=prefix, include_in_schema=prefix == "/api")
    app.include_router(page.page_router(settings))
    return app


def _build_routes(app: Application) -> None:
    """FastAPI builds the routes of a router when it is first asked for one, which holds up that request and all others.

    An address that is nowhere asks all of them.
    """
    nowhere = {"type": "http", "method": "GET", "path": "/nowhere/at/all", "headers": []}
    for route in app.router.routes:
        route.matches(dict(nowhere))


def _install_middleware(app: Application, settings: GatewaySettings) -> None:
    """Each is around those before it: also what only `AnswersFailures` can answer has its headers."""
    app.add_middleware(AddressRates, rates=app.state.rates)
    install_problems(app)
    app.add_middleware(CORSMiddleware, **cors_options(settings.allowed_origins))
    app.add_middleware(SecurityHeaders, is_https=(settings.public_url or "").startswith("https://"))


def create_internal_app(app: Application) -> Application:
    """What `app` tells of itself to whoever operates it, to be served on a port of its own."""
    internal = Application(openapi_url=None)
    internal.state = app.state
    internal.include_router(health.router)
    internal.add_api_route("/metrics", metrics.answer_metrics)
    install_problems(internal)
    return internal


@asynccontextmanager
async def open_services(settings: GatewaySettings, stopping: Signal) -> AsyncIterator[Services]:
    """Postgres must be there; RabbitMQ may come later, as accepted messages wait for it."""
    tool_servers = tool_servers_or_exit(settings.tool_servers_file, "gateway")
    broker = Broker(
        url=settings.rabbitmq_url.get_secret_value(),
        process=f"gateway-{os.getpid()}",
        partition_count=settings.partition_count,
        publish_timeout_seconds=settings.publish_timeout_seconds,
        ca_file=settings.tls_ca_file,
        declares=False,
        journal_exchange=CANCELS,
    )
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        application_name="gateway",
        pool_size=settings.database_pool_size,
        command_seconds=settings.database_seconds_max,
    )
    denials = Denials(database, settings)
    await denials.start()
    provider_keys = ProviderKeys(settings) if settings.jwt_jwks_url is not None else None
    sessions = Sessions(settings)
    completions = Completions(database, settings, stopping, denials)
    publisher, live = Publisher(broker), Live(broker)
    dispatcher = Dispatcher(publisher, database)
    watching = asyncio.create_task(watch_loop())
    if provider_keys is not None:
        provider_keys.start()
    publisher.start()
    live.start()
    dispatcher.start()
    try:
        yield Services(
            settings=settings,
            database=database,
            publisher=publisher,
            answers=Answers(database, dispatcher, live, settings, stopping, denials),
            feeds=Feeds(database, dispatcher, live, settings, stopping, denials),
            transfers=Slots("transfers", per_user_max=settings.transfers_per_user_max, all_max=settings.transfers_max),
            exports=Slots("exports", per_user_max=settings.exports_per_user_max, all_max=settings.exports_max),
            export_rates=Rates(
                "exports",
                per_second_max=settings.exports_per_hour_max / 3_600,
                burst_max=settings.exports_per_hour_max,
            ),
            completions=completions,
            authenticator=Authenticator(settings, provider_keys, sessions),
            sessions=sessions,
            denials=denials,
            logins=Rates(
                "logins",
                per_second_max=settings.logins_per_minute_max / 60,
                burst_max=settings.logins_per_minute_max,
            ),
            share_reads=Rates(
                "share_reads",
                per_second_max=settings.share_reads_per_minute_max / 60,
                burst_max=settings.share_reads_per_minute_max,
            ),
            tool_servers=tool_servers,
        )
    finally:
        watching.cancel()
        await dispatcher.stop()
        await live.stop()
        await publisher.stop()
        await completions.close()
        if provider_keys is not None:
            await provider_keys.stop()
        await denials.stop()
        await database.close()
