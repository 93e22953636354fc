"""The outermost layer: answers that go on when all others have been left."""

import asyncio
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.application import Application, Rest, leave_rest
from gateway.problems import install_problems
from tests.gateway.conftest import Caller


class Layer:
    """Around the routes; `fails` once they have answered."""

    inside = 0

    def __init__(self, app: ASGIApp, *, fails: bool = False) -> None:
        self._app = app
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Layer.inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            Layer.inside -= 1
        if self._fails:
            raise ZeroDivisionError


class Story(Response):
    """An answer in two parts."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.told: list[Any] = []

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.scope = scope
        leave_rest(scope, self)

    async def send_by(self, send: Send) -> None:
        self.told.append((Layer.inside, dict(self.scope)))
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.body", "body": b"the end"})

    def give_up(self) -> None:
        self.told.append("given up")


def telling(story: Story, **layer: Any) -> Application:
    app = Application()
    app.add_middleware(Layer, **layer)
    install_problems(app)
    app.add_api_route("/story", lambda: story, response_model=None)
    return app


async def test_the_rest_of_an_answer_is_sent_with_nothing_around_it() -> None:
    story: Rest = (told := Story())

    with capture_logs() as logs:
        answer = await Caller(telling(told), "", None).get("/story")

    assert story is told
    assert answer.text == "the end"
    assert told.told == [(0, {"type": "http", "method": "GET"})]
    assert [(entry["event"], entry["route"], entry["status"]) for entry in logs] == [("request", "/story", 200)]


async def test_a_rest_that_fails_is_logged_once_and_breaks_the_answer() -> None:
    app = telling(Story(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError), capture_logs() as logs:
        await Caller(app, "", None).get("/story")

    assert [entry["event"] for entry in logs] == ["request_failed", "request"]


async def test_a_rest_that_nobody_will_send_is_given_up() -> None:
    story = Story()

    with pytest.raises(ZeroDivisionError), capture_logs():
        await Caller(telling(story, fails=True), "", None).get("/story")

    assert story.told == ["given up"]


async def test_a_rest_that_is_cancelled_is_told_as_a_request() -> None:
    story = Story(asyncio.CancelledError())  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError), capture_logs() as logs:
        await Caller(telling(story), "", None).get("/story")

    assert [entry["event"] for entry in logs] == ["request"]
