"""What clients did and saw while the system was attacked: everything sent, everything answered, everything streamed.

A client here is a careful one. It sends with an idempotency key until it gets an answer, at whichever gateway lives,
and follows a stream from gateway to gateway until it has seen the end.
"""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2

from shared.ids import uuid7
from tests.support.stack import token_of

JsonObject = dict[str, Any]
_LATER = {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE}
_RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
_TOKEN_AGE_SECONDS = 1_800
_SILENCE = b": ping\n\n"


@dataclass
class Read:
    """One connection to a stream: the data of its events as they came, and whether it said `[DONE]`."""

    starting_after: int
    events: list[bytes] = field(default_factory=list)
    is_done: bool = False


@dataclass
class Said:
    """A message of a user: how it was sent, what became of it as far as its sender could see.

    `number` counts the user's messages in the order in which they were accepted. `readers` each hold the connections
    of one reader, which together are one stream.
    """

    user_id: str
    text: str
    model: str
    response_id: str = ""
    conversation_id: str = ""
    number: int = 0
    refusals: list[str] = field(default_factory=list)
    readers: list[list[Read]] = field(default_factory=list)
    finals: list[JsonObject] = field(default_factory=list)
    is_cancelled: bool = False


@dataclass(frozen=True)
class Seen:
    """What a user was answered on any route: the method with the path and its query, the status, the whole body."""

    user_id: str
    request: str
    status: int
    body: bytes


@dataclass
class History:
    said: list[Said] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def accepted(self) -> list[Said]:
        return [said for said in self.said if said.response_id]


class Talker:
    """One user, who knows every gateway. The name is the user's canary: no other user may ever see it."""

    def __init__(
        self,
        history: History,
        gateways: Iterator[str],
        user_id: str,
        http: httpx2.AsyncClient,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """What is not there after `patience_seconds` fails, however often it was asked for."""
        self.user_id = user_id
        self._patience_seconds = patience_seconds
        self._history = history
        self._gateways = gateways
        self._http = http

    @classmethod
    def new(
        cls, history: History, gateways: Sequence[str], name: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> Self:
        user_id = f"{name}-{uuid7().hex[-12:]}"
        history.users.append(user_id)
        return cls(history, itertools.cycle(gateways), user_id, _http_of(user_id), patience_seconds)

    async def close(self) -> None:
        await self._http.aclose()

    def at(self, gateways: Sequence[str]) -> "Talker":
        """The same user, who knows other gateways from now on."""
        http = _http_of(self.user_id)
        return Talker(self._history, itertools.cycle(gateways), self.user_id, http, self._patience_seconds)

    @asynccontextmanager
    async def with_receive_buffer(self, byte_count: int) -> AsyncIterator["Talker"]:
        """The same user at a machine that takes no more than so much before somebody reads it."""
        options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, byte_count)]
        async with httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(socket_options=options), headers=self._http.headers, timeout=60
        ) as http:
            yield Talker(self._history, self._gateways, self.user_id, http, self._patience_seconds)

    def canary(self) -> str:
        """A text that was never said before, and that tells whose it is."""
        return f"{self.user_id}-{uuid7().hex[-8:]}"

    async def add_task(self, conversation_id: str | None = None) -> Said:
        return await self.say(f"add a task: {self.canary()}", conversation_id, model="todo")

    async def ask(self, conversation_id: str | None = None, *, tokens: int = 30, delay_ms: int = 10) -> Said:
        directive = f"[[demo: tokens={tokens} delay_ms={delay_ms}]]"
        return await self.say(f"{directive} {self.canary()}", conversation_id, model="chat")

    async def say(self, text: str, conversation_id: str | None = None, *, model: str) -> Said:
        """Send a message, with the same key as often as it takes. Fails if no gateway takes it for a minute."""
        said = Said(self.user_id, text, model)
        self._history.said.append(said)
        body = {"model": model, "input": text, "conversation": conversation_id, "background": True}
        headers = {"idempotency-key": uuid7().hex}

        async def send() -> bool:
            answer = await self._http.post(f"{next(self._gateways)}/v1/responses", json=body, headers=headers)
            if answer.status_code in _LATER:
                said.refusals.append(f"{answer.status_code} {answer.headers.get('retry-after')}")
                return False
            assert answer.status_code == httpx2.codes.OK, answer.text
            self._note(answer)
            response = answer.json()
            said.response_id, said.conversation_id = response["id"], response["conversation"]["id"]
            said.number = 1 + max((other.number for other in self._history.said if other is not said), default=0)
            return True

        await _until(send, f"{text!r} is accepted", self._patience_seconds)
        return said

    async def cancel(self, said: Said) -> None:
        said.is_cancelled = True

        async def send() -> bool:
            url = f"{next(self._gateways)}/v1/responses/{said.response_id}/cancel"
            answer = await self._http.post(url)
            self._note(answer)
            return answer.status_code == httpx2.codes.OK

        await _until(send, "the cancel is taken", self._patience_seconds)

    async def follow(
        self,
        said: Said,
        *,
        starting_after: int = -1,
        on_event: Callable[[JsonObject], Awaitable[None]] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Read the stream to its end, each time at the next gateway, and then the response itself."""
        reads: list[Read] = []
        said.readers.append(reads)

        async def read() -> bool:
            cursor = starting_after + sum(len(read.events) for read in reads)
            reads.append(Read(cursor))
            async with self.stream(said, cursor) as events:
                async for event in events:
                    if event is None:
                        reads[-1].is_done = True
                        break
                    reads[-1].events.append(event)
                    if on_event is not None:
                        await on_event(json.loads(event))
            return reads[-1].is_done

        await _until(read, f"{said.response_id} is streamed to its end", seconds or self._patience_seconds)
        await self.look(said)

    async def look(self, said: Said) -> None:
        """Record the response as it stands."""

        async def get() -> bool:
            answer = await self._http.get(f"{next(self._gateways)}/v1/responses/{said.response_id}")
            self._note(answer)
            if answer.status_code == httpx2.codes.OK:
                said.finals.append(answer.json())
            return answer.status_code == httpx2.codes.OK

        await _until(get, "the response is shown", self._patience_seconds)

    async def see(self, path: str, *, method: str = "GET", **sent: Any) -> Seen:
        """Record what one request is answered; of a stream, up to its end, or up to the first silence of a feed.

        `sent`: what goes with it, as httpx2 names it (`params`, `json`, `data`, `files`).
        """
        seen: list[Seen] = []

        async def ask() -> bool:
            async with self._http.stream(method, f"{next(self._gateways)}{path}", **sent) as answer:
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if body.endswith(_SILENCE):
                        break
            seen.append(self._note(answer, body))
            return answer.status_code not in _LATER

        await _until(ask, f"{method} {path} is answered", self._patience_seconds)
        return seen[-1]

    def _note(self, answer: httpx2.Response, body: bytes | None = None) -> Seen:
        """Record an answer that was read whole, or so far as `body`."""
        request = f"{answer.request.method} {answer.url.raw_path.decode()}"
        seen = Seen(self.user_id, request, answer.status_code, answer.content if body is None else body)
        self._history.seen.append(seen)
        return seen

    @asynccontextmanager
    async def stream(self, said: Said, starting_after: int) -> AsyncIterator[AsyncIterator[bytes | None]]:
        """The data of the events behind `starting_after`; None for the end. One connection, which may just break."""
        params = {"stream": "true"} | ({"starting_after": str(starting_after)} if starting_after >= 0 else {})
        url = f"{next(self._gateways)}/v1/responses/{said.response_id}"
        headers = {"x-request-id": stream_request_id(said, starting_after)}
        async with self._http.stream("GET", url, params=params, headers=headers) as answer:
            if answer.status_code in _LATER:
                raise httpx2.ReadError("not now")
            assert answer.status_code == httpx2.codes.OK, (await answer.aread()).decode()
            yield _data(answer)


def _http_of(user_id: str) -> httpx2.AsyncClient:
    """With a token that is good by any gateway's clock, however wrong: it was issued a while ago, and lasts."""
    headers = {"authorization": f"Bearer {token_of(user_id, iat=int(time.time()) - _TOKEN_AGE_SECONDS)}"}
    return httpx2.AsyncClient(timeout=httpx2.Timeout(20, connect=2), headers=headers)


def stream_request_id(said: Said, starting_after: int) -> str:
    """What the gateways' logs call the request for this stream."""
    return f"{said.response_id}.{starting_after}"


async def _data(answer: httpx2.Response) -> AsyncIterator[bytes | None]:
    with suppress(httpx2.TransportError):  # a gateway that dies breaks the connection; what came is what counts
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                yield None
            elif line.startswith("data: "):
                yield line.removeprefix("data: ").encode()


async def _until(attempt: Callable[[], Awaitable[bool]], what: str, seconds: float) -> None:
    """Repeat `attempt` until it succeeds; a gateway that is away is no failure, only another reason to repeat."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        with suppress(httpx2.TransportError):
            if await attempt():
                return
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(_RETRY_SECONDS)
