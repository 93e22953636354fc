"""Recorders between the system and what is outside: they pass on, or take, what is sent there, and show it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx2

_OF_ONE_HOP = {b"host", b"content-length", b"transfer-encoding", b"connection"}

# Told of each exchange once it is over: the path, the request's headers, its body, as much of its answer as came.
Note = Callable[[str, dict[str, str], bytes, bytes], None]


class Relay:
    """An ASGI application that passes everything on to `target`, a base URL, as soon as there is one.

    Without a target it answers by itself, 503 or `answer`.
    """

    def __init__(self, note: Note, *, answer: int = 503) -> None:
        self.target = ""
        self._note = note
        self._answer = answer
        self._http = httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None))

    async def close(self) -> None:
        await self._http.aclose()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        heard = bytearray()
        try:
            if self.target:
                await self._pass_on(scope, bytes(body), heard, send)
            else:
                await _start(send, self._answer, [])
                await send({"type": "http.response.body"})
        finally:
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            self._note(scope["path"], headers, bytes(body), bytes(heard))

    async def _pass_on(self, scope: Any, body: bytes, heard: bytearray, send: Any) -> None:
        headers = [header for header in scope["headers"] if header[0] not in _OF_ONE_HOP]
        url = f"{self.target}{scope['path']}"
        async with self._http.stream(scope["method"], url, content=body, headers=headers) as answer:
            await _start(send, answer.status_code, [one for one in answer.headers.raw if one[0] not in _OF_ONE_HOP])
            async for part in answer.aiter_raw():
                heard += part
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})


async def _start(
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]], status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    lower = [(name.lower(), value) for name, value in headers if name.lower() not in _OF_ONE_HOP]
    await send({"type": "http.response.start", "status": status, "headers": lower})
