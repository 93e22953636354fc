"""The application as the server sees it: around all that happens for a request, to the last byte of its answer.

An answer begins within a dozen layers: they read the body, look who asks, and give the answer its headers. A stream
goes on for minutes when all of them have done what they do, so that it leaves them: what they hold, which is most of
what a stream would hold, is free again, and no event goes through them.
"""

import re
from typing import Protocol

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from gateway.telling import ToldRequest
from shared.ids import uuid7
from shared.observability import get_logger

log = get_logger()

_REST = "rest_of_answer"
# What a client may choose as the id of its request: it comes into logs and answers as it is.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Rest(Protocol):
    """The rest of an answer that has begun. Either method is called, once."""

    async def send_by(self, send: Send) -> None:
        """Send it, up to its end. What is raised breaks the connection."""
        ...

    def give_up(self) -> None:
        """Nobody will send it."""
        ...


def leave_rest(scope: Scope, rest: Rest) -> None:
    """Let `rest` be sent when all layers around the answer's beginning, which was sent, have been left."""
    scope["state"][_REST] = rest


def rest_of(scope: Scope) -> Rest | None:
    """What is left of the answer, handed out once."""
    return scope["state"].pop(_REST, None)  # type: ignore[no-any-return]


class Application(FastAPI):
    """Gives each request an id, logs and counts how it went, and sends what is left of answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        scope.setdefault("state", {}).update(request_id=_asked_id(scope) or f"req_{uuid7().hex}", answer_headers={})
        with ToldRequest(scope) as request:
            try:
                await super().__call__(scope, receive, send)
            except BaseException:
                rest = rest_of(scope)
                if rest is not None:
                    rest.give_up()
                raise
            rest = rest_of(scope)
            if rest is not None:
                request.let_go()
                _empty(scope)
                try:
                    await rest.send_by(send)
                except Exception:
                    log.exception("request_failed", method=request.method, route=request.route)
                    raise  # half an answer is out: only a broken connection tells the client


def _empty(scope: Scope) -> None:
    """The server keeps the scope as long as the answer lasts, and asks it for nothing but the method."""
    scope["headers"].clear()
    kind, method = scope["type"], scope["method"]
    scope.clear()
    scope.update(type=kind, method=method)


def _asked_id(scope: Scope) -> str | None:
    """The id that the client has chosen for its request, where that is fit to be one."""
    asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return asked.decode() if _REQUEST_ID.fullmatch(asked) else None
