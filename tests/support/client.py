"""A client as a careful user would write one: posts, polls, and follows streams that it resumes."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2

from tests.support.stack import token_of
from tests.support.waiting import wait_until

JsonObject = dict[str, Any]
_TERMINAL = {"response.completed", "response.failed", "response.incomplete"}


class Client:
    """One user at one gateway."""

    def __init__(self, url: str, user_id: str) -> None:
        self.user_id = user_id
        self.http = httpx2.AsyncClient(
            base_url=url, timeout=60, headers={"authorization": f"Bearer {token_of(user_id)}"}
        )

    async def close(self) -> None:
        await self.http.aclose()

    async def chat(self, message: str, conversation_id: str | None = None, **headers: str) -> JsonObject:
        """The answer to `message` by the simple contract; fails unless it is 200."""
        body = {"message": message, "conversation_id": conversation_id}
        answer = await self.http.post(f"/api/{self.user_id}/chat", json=body, headers=headers)
        assert answer.status_code == httpx2.codes.OK, answer.text
        return object_of(answer)

    async def create(self, text: str, **fields: Any) -> JsonObject:
        answer = await self.http.post("/v1/responses", json={"model": "chat", "input": text, **fields})
        assert answer.status_code == httpx2.codes.OK, answer.text
        return object_of(answer)

    async def response(self, response_id: str) -> JsonObject:
        answer = await self.http.get(f"/v1/responses/{response_id}")
        assert answer.status_code == httpx2.codes.OK, answer.text
        return object_of(answer)

    async def ended(self, response_id: str, *, seconds: float = 60.0) -> JsonObject:
        """The Response object, once it has ended."""

        async def look() -> JsonObject | None:
            response = await self.response(response_id)
            return response if response["status"] not in {"queued", "in_progress"} else None

        return await wait_until(look, seconds=seconds, what=f"{response_id} ended") or {}

    async def events(self, response_id: str, *, starting_after: int | None = None) -> list[JsonObject]:
        """All events behind `starting_after` until the stream ends."""
        async with self.stream(response_id, starting_after=starting_after) as events:
            return [event async for event in events]

    @asynccontextmanager
    async def stream(
        self, response_id: str, *, starting_after: int | None = None
    ) -> AsyncIterator[AsyncIterator[JsonObject]]:
        after = {} if starting_after is None else {"starting_after": str(starting_after)}
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(
                self.http.stream("GET", f"/v1/responses/{response_id}", params={"stream": "true", **after})
            )
            assert answer.status_code == httpx2.codes.OK, (await answer.aread()).decode()
            yield events_of(answer)


async def events_of(answer: httpx2.Response) -> AsyncIterator[JsonObject]:
    """The events of a stream, strictly: `event` names the type, one line of data, `[DONE]` only behind the end."""
    name, last = "", ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line == "data: [DONE]":
            assert last in _TERMINAL or not last
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            assert event["type"] == name
            last = name
            yield event
        else:
            assert line in {"", ": ping"}, line


def object_of(answer: httpx2.Response) -> JsonObject:
    decoded: JsonObject = answer.json()
    return decoded


def text_of(response: JsonObject) -> str:
    """The text of a Response object's output."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def is_terminal(event: JsonObject) -> bool:
    return event["type"] in _TERMINAL
