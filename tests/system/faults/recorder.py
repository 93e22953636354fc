"""A tool server outside of the system that remembers each thing it did: the ledger that nobody can tidy up.

Its one tool is declared as not repeatable, so the system has to make each call at most once.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from shared.ids import Prefix, new_wire_id
from task_tools.idempotency import META_KEY
from tests.support.asgi import served
from tests.system.faults.checker import Effect


@asynccontextmanager
async def recording_tools() -> AsyncIterator[tuple[str, list[Effect]]]:
    """The MCP endpoint, and what was done there so far."""
    effects: list[Effect] = []

    async def add_task(ctx: Context[Any, Request], title: str) -> dict[str, Any]:
        """Add one task to the user's to-do list."""
        call = ctx.request_context
        assert call.request is not None
        effects.append(Effect(_user_of(call.request), "add_task", str((call.meta or {}).get(META_KEY)), title))
        return {"id": new_wire_id(Prefix.TASK), "title": title, "completed": False}

    server: MCPServer[Any] = MCPServer("recorder", log_level="WARNING", subscriptions=False)
    server.add_tool(add_task, annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=False))
    endpoint = server.streamable_http_app(stateless_http=True)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    async with served(Starlette(routes=[Mount("/", endpoint)], lifespan=lifespan)) as url:
        yield f"{url}/mcp", effects


def _user_of(request: Request) -> str:
    """Whom the token names; whether it is signed is the real server's business."""
    payload = request.headers["authorization"].split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"])
