"""The tool server as an ASGI application: MCP at /mcp behind the token check, health beside it.

It is stateless: every request brings its user, everything it knows is in Postgres, any number of copies may run.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypedDict

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.db import Database
from shared.errors import DatabaseUnavailableError
from shared.metrics import CONTENT_TYPE, name_process, text_of, watch_loop
from shared.tracing import traced
from task_tools.auth import BearerAuth
from task_tools.settings import TaskToolsSettings
from task_tools.tools import TaskLimits, TaskTools

_INSTRUCTIONS = """\
The user's to-do list. Task ids come from list_tasks; never invent one.
Send a key of your own as `_meta` "parley/idempotency-key" with a call to be able to repeat it safely."""


class Opened(TypedDict):
    """What the application holds open while it runs."""

    database: Database
    mcp: ASGIApp


def create_app(settings: TaskToolsSettings) -> Starlette:
    """The application; it opens its database pool when it starts and closes it when it stops."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[Opened]:
        name_process("task-tools")
        database = await Database.connect(
            settings.database_url.get_secret_value(),
            application_name="task-tools",
            pool_size=settings.database_pool_size,
        )
        watching = asyncio.create_task(watch_loop())
        try:
            server = _create_server(database, settings)
            endpoint = _create_endpoint(server, settings)
            with traced("task-tools", settings):
                async with server.session_manager.run():
                    yield {"database": database, "mcp": endpoint}
        finally:
            watching.cancel()
            await database.close()

    return Starlette(
        routes=[
            Route("/health/live", _live),
            Route("/health/ready", _ready),
            Route("/metrics", _metrics),
            Route("/mcp", BearerAuth(_serve_mcp, settings.tool_token_secret, settings.tool_token_previous_secrets)),
        ],
        lifespan=lifespan,
    )


def _create_server(database: Database, settings: TaskToolsSettings) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer(
        "parley-task-tools",
        title="Parley to-do list",
        instructions=_INSTRUCTIONS,
        version=version("parley-task-tools"),
        log_level="WARNING",
        subscriptions=False,  # the tools never change while the server runs
    )
    limits = TaskLimits(
        title_chars_max=settings.title_chars_max,
        description_chars_max=settings.description_chars_max,
        tasks_per_user_max=settings.tasks_per_user_max,
        listed_tasks_max=settings.listed_tasks_max,
    )
    TaskTools(database, limits).register(server)
    return server


def _create_endpoint(server: MCPServer[Any], settings: TaskToolsSettings) -> ASGIApp:
    return server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=settings.body_bytes_max,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=list(settings.allowed_hosts),
            allowed_origins=[],  # no browser has business here
        ),
    )


async def _serve_mcp(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["state"]["mcp"](scope, receive, send)


async def _live(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def _metrics(_request: Request) -> Response:
    return Response(text_of(), media_type=CONTENT_TYPE)


async def _ready(request: Request) -> JSONResponse:
    try:
        await request.state.database.ping()
    except DatabaseUnavailableError:
        return JSONResponse({"status": "unavailable", "dependencies": {"postgres": "down"}}, status_code=503)
    return JSONResponse({"status": "ok", "dependencies": {"postgres": "up"}})
