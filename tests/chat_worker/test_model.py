"""The model client against a real HTTP server that answers byte by byte what a test tells it to."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat
from typing import Any, Literal

import pytest

from chat_worker.agent.model import ModelLimits, OpenAIModel
from chat_worker.agent.values import (
    Finish,
    FunctionTool,
    ModelRequest,
    ModelRound,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    Usage,
)
from shared.errors import ModelRefusedError, ModelUnavailableError

ADD_TASK = Tool("tasks", "add_task", "Add a task.", {"type": "object", "properties": {"title": {"type": "string"}}})
REQUEST = ModelRequest(messages=[{"role": "user", "content": "hello"}], tools=[])
DONE = b"data: [DONE]\n\n"
EndOfAnswer = Literal["clean", "cut", "reset", "hang", "repeat"]


def chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", **fields}).encode() + b"\n\n"


def said(text: str | None = None, *, finish: str | None = None) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def thought(name: str, text: object) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {name: text}, "finish_reason": None}])


def called(
    *,
    index: int | None,
    call_id: str | None = None,
    name: str | None = None,
    arguments: str | None = None,
) -> bytes:
    call = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])


@pytest.mark.parametrize("piece_size", [1, 7, 10_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_text_comes_as_deltas_and_then_as_one_round_however_it_is_cut_into_packets(
    piece_size: int, line_end: bytes
) -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    stream = b"".join(
        (b": keep-alive\n\n", said("Grüß "), said("Gott 👋"), said(finish="stop"), chunk(choices=[], usage=usage), DONE)
    ).replace(b"\n", line_end)
    pieces = [stream[start : start + piece_size] for start in range(0, len(stream), piece_size)]

    async with endpoint(*pieces) as server:
        happenings = await heard(server, REQUEST)

    assert happenings == [
        TextDelta("Grüß "),
        TextDelta("Gott 👋"),
        ModelRound(0, "Grüß Gott 👋", (), Finish.STOP, Usage(7, 5, 3, 2)),
    ]


async def test_the_request_holds_the_history_the_tools_and_only_the_settings_that_were_asked_for() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    request = ModelRequest(messages, [ADD_TASK], temperature=0.5, output_token_count_max=99, parallel_tool_calls=False)

    async with endpoint(said(finish="stop"), DONE) as server:
        await heard(server, request)
        await heard(server, REQUEST)

    function = {"name": "add_task", "description": "Add a task.", "parameters": ADD_TASK.input_schema}
    assert server.bodies == [
        {
            "model": "a-model",
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "temperature": 0.5,
            "max_completion_tokens": 99,
        },
        {
            "model": "a-model",
            "messages": REQUEST.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ]


async def test_what_the_client_set_goes_to_the_endpoint_and_so_do_its_functions() -> None:
    functions = [FunctionTool("fly", "Flies.", {"type": "object"}, strict=True), FunctionTool("sing")]
    parameters = {"response_format": {"type": "json_object"}, "reasoning_effort": "low"}

    async with endpoint(said(finish="stop"), DONE) as server:
        await heard(server, ModelRequest(REQUEST.messages, functions, parameters=parameters))

    [body] = server.bodies
    assert {name: body[name] for name in parameters} == parameters
    assert [tool["function"] for tool in body["tools"]] == [
        {"name": "fly", "description": "Flies.", "parameters": {"type": "object"}, "strict": True},
        {"name": "sing"},
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_text(name: str) -> None:
    async with endpoint(
        thought(name, "Let me "), thought(name, "see."), said("Hi."), thought(name, " Or?"), said(finish="stop"), DONE
    ) as server:
        happenings = await heard(server, REQUEST)

    assert happenings == [
        ReasoningDelta("Let me "),
        ReasoningDelta("see."),
        TextDelta("Hi."),
        ModelRound(0, "Hi.", (), Finish.STOP, Usage(), "Let me see."),
    ]


async def test_reasoning_has_a_limit_and_may_be_anything() -> None:
    limits = ModelLimits(reasoning_bytes_max=6)
    async with endpoint(
        thought("reasoning", {"a": 1}),
        thought("reasoning", "äöüäöü"),
        thought("reasoning", "x"),
        said("Hi.", finish="stop"),
    ) as server:
        happenings = await heard(server, REQUEST, limits)

    assert happenings[0] == ReasoningDelta("äöü")
    assert happenings[-1] == ModelRound(0, "Hi.", (), Finish.STOP, Usage(), "äöü")


async def test_parallel_tool_calls_are_put_together_by_index() -> None:
    async with endpoint(
        called(index=0, call_id="a", name="add_task", arguments=""),
        called(index=1, call_id="b", name="list_tasks", arguments="{"),
        called(index=0, arguments='{"title":'),
        called(index=1, arguments="}"),
        called(index=0, arguments=' "milk"}'),
        said(finish="tool_calls"),
        DONE,
    ) as server:
        last = await last_round(server)

    assert last.calls == (ToolCall("a", "add_task", '{"title": "milk"}'), ToolCall("b", "list_tasks", "{}"))


@pytest.mark.parametrize("index", [None, 0], ids=["calls without an index", "calls that all have index 0"])
async def test_calls_that_their_index_does_not_tell_apart_are_told_apart_by_their_ids(index: int | None) -> None:
    async with endpoint(
        called(index=index, call_id="a", name="add_task", arguments='{"title": '),
        called(index=index, arguments='"milk"}'),
        called(index=index, call_id="b", name="add_task", arguments='{"title": "tea"}'),
        said(finish="tool_calls"),
    ) as server:
        last = await last_round(server)

    assert [call.arguments for call in last.calls] == ['{"title": "milk"}', '{"title": "tea"}']


async def test_calls_without_an_id_or_with_the_same_one_get_ids_of_their_own() -> None:
    async with endpoint(
        called(index=0, name="add_task", arguments="{}"),
        called(index=1, call_id="same", name="add_task", arguments="{}"),
        called(index=2, call_id="same", name="add_task", arguments="{}"),
        said(finish="tool_calls"),
    ) as server:
        last = await last_round(server)

    ids = [call.call_id for call in last.calls]
    assert all(ids)
    assert len(set(ids)) == 3


async def test_a_name_that_is_repeated_with_every_piece_is_still_the_name() -> None:
    async with endpoint(
        called(index=0, call_id="a", name="add_task", arguments="{"),
        called(index=0, call_id="a", name="add_task", arguments="}"),
        said(finish="tool_calls"),
    ) as server:
        last = await last_round(server)

    assert last.calls == (ToolCall("a", "add_task", "{}"),)


async def test_a_round_with_calls_that_ends_with_stop_is_a_round_of_tool_calls() -> None:
    async with endpoint(called(index=0, call_id="a", name="add_task", arguments="{}"), said(finish="stop")) as server:
        last = await last_round(server)

    assert last.finish is Finish.TOOL_CALLS
    assert len(last.calls) == 1


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_calls_of_a_truncated_round_are_dropped(finish: str) -> None:
    async with endpoint(
        called(index=0, call_id="a", name="delete_task", arguments='{"task_id": "tas'), said(finish=finish)
    ) as server:
        last = await last_round(server)

    assert (last.finish, last.calls) == (Finish(finish), ())


async def test_text_that_postgres_could_not_hold_is_repaired() -> None:
    async with endpoint(
        b'data: {"choices": [{"delta": {"content": "a\\u0000b"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "c\\ud83dd"}}]}\n\n',
        said(finish="stop"),
    ) as server:
        last = await last_round(server)

    assert last.text == "abc\ufffdd"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None},
        {"prompt_tokens": -1},
        {"prompt_tokens": "many"},
        {"prompt_tokens": 2**63 - 1},
        "none",
    ],
)
async def test_usage_that_is_missing_or_makes_no_sense_counts_as_zeros(usage: object) -> None:
    async with endpoint(said("hi"), said(finish="stop"), chunk(choices=[], usage=usage), DONE) as server:
        last = await last_round(server)

    assert last.usage == Usage()


async def test_a_refusal_is_text_like_any_other() -> None:
    async with endpoint(chunk(choices=[{"delta": {"refusal": "No."}}]), said(finish="stop"), DONE) as server:
        last = await last_round(server)

    assert last.text == "No."


async def test_the_connection_is_used_for_the_next_round() -> None:
    async with endpoint(said("hi"), said(finish="stop"), DONE) as server, a_model(server) as model:
        await collected(model)
        await collected(model)

    assert len(server.bodies) == 2
    assert server.connection_count == 1


@pytest.mark.parametrize("end", ["cut", "reset", "hang"])
async def test_a_round_with_its_finish_reason_is_whole_whatever_happens_after(end: EndOfAnswer) -> None:
    limits = ModelLimits(trailer_seconds=0.05)
    async with endpoint(said("hi"), said(finish="stop"), end=end) as server:
        last = await last_round(server, limits)

    assert last.text == "hi"


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        pytest.param([], "model_cut_stream", id="nothing"),
        pytest.param([DONE], "model_cut_stream", id="done at once"),
        pytest.param([b'data: {"choices": []}\n\n', DONE], "model_cut_stream", id="empty choices"),
        pytest.param([b'data: {"choices": [{"delta"'], "model_cut_stream", id="half a chunk"),
        pytest.param([b"data: {garbage}\n\n"], "model_bad_stream", id="no JSON"),
        pytest.param([b"data: [1, 2]\n\n"], "model_bad_stream", id="no object"),
        pytest.param([b"data: \xff\xfe\n\n"], "model_bad_stream", id="no UTF-8"),
        pytest.param([b"data: " + b"[" * 10_000 + b"\n\n"], "model_bad_stream", id="deep nesting"),
        pytest.param([b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'], "model_bad_stream", id="wrong type"),
        pytest.param([b"<!doctype html>\n<p>Welcome!</p>\n"], "model_bad_stream", id="HTML"),
        pytest.param([b'data: {"choices": [{"finish_reason": "tired"}]}\n\n'], "model_bad_stream", id="unknown finish"),
        pytest.param([b'data: {"choices": [{"finish_reason": "tool_calls"}]}\n\n'], "model_bad_stream", id="no calls"),
        pytest.param([b'data: {"error": {"message": "oh"}}\n\n'], "model_failing", id="error event"),
        pytest.param([b'data: {"error": "oh"}\n\n'], "model_failing", id="error event in words"),
        pytest.param([b'data: {"error": {"code": 429}}\n\n'], "model_rate_limited", id="error event with status"),
    ],
)
async def test_a_broken_stream_is_an_error_that_another_try_may_mend(pieces: list[bytes], code: str) -> None:
    async with endpoint(said("Hel"), *pieces) as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == code


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_a_connection_lost_in_the_middle_is_a_cut_stream(end: EndOfAnswer) -> None:
    async with endpoint(said("Hel"), end=end) as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == "model_cut_stream"


NO_HTTP = [
    pytest.param(b"SSH-2.0-sk-123\r\n", id="another protocol"),
    pytest.param(b"HTTP/1.1 sk-123 OK\r\n\r\n", id="no status"),
    pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"sk-123" * 5_000 + b"\r\n\r\n", id="a long header"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: sk-123\r\n\r\n", id="no length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsk-123 sk-123\r\n", id="no frame"),
]


@pytest.mark.parametrize("answer", NO_HTTP)
async def test_an_answer_that_is_no_http_is_a_bad_stream_and_quoted_nowhere(answer: bytes) -> None:
    async with endpoint(raw=answer, end="hang") as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == "model_bad_stream"
    assert "sk-123" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("end", ["cut", "hang"])
async def test_a_frame_that_cannot_be_read_in_the_middle_ends_with_a_timeout(end: EndOfAnswer) -> None:
    """The transport hangs up, and would have us wait for ever."""
    limits = ModelLimits(silence_seconds=0.2)
    async with (
        endpoint(said("Hel"), raw=b"5\r\nlonger than that\r\n", end=end) as server,
        a_model(server, limits) as model,
    ):
        answer = model.round(REQUEST)
        assert await anext(answer) == TextDelta("Hel")

        server.go_on.set()
        with pytest.raises(ModelUnavailableError) as caught:
            await asyncio.wait_for(anext(answer), 30)

    assert caught.value.code == "model_timeout"


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_is_a_failure_and_the_conversation_goes_nowhere_else(status: int) -> None:
    async with endpoint(said(finish="stop"), DONE) as elsewhere:
        headers = {"Location": f"http://localhost:{elsewhere.port}/v1/chat/completions"}
        async with endpoint(status=status, headers=headers) as server:
            with pytest.raises(ModelUnavailableError) as caught:
                await heard(server, REQUEST)

    assert caught.value.code == "model_failing"
    assert elsewhere.connection_count == 0


async def test_text_that_came_before_a_failure_was_handed_out() -> None:
    async with endpoint(said("Hel"), end="cut") as server, a_model(server) as model:
        answer = model.round(REQUEST)

        assert await anext(answer) == TextDelta("Hel")
        with pytest.raises(ModelUnavailableError):
            await anext(answer)


async def test_an_endpoint_that_is_not_there_is_unreachable() -> None:
    async with endpoint() as server:
        pass

    with pytest.raises(ModelUnavailableError) as caught:
        await heard(server, REQUEST)

    assert caught.value.code == "model_unreachable"


@pytest.mark.parametrize("pieces", [[], [said("Hel")]], ids=["before any text", "in the middle"])
async def test_silence_ends_with_a_timeout(pieces: list[bytes]) -> None:
    limits = ModelLimits(silence_seconds=0.05)
    async with endpoint(*pieces, end="hang") as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST, limits)

    assert caught.value.code == "model_timeout"


async def test_comments_do_not_keep_a_round_alive_for_ever() -> None:
    limits = ModelLimits(round_seconds=0.05)
    async with endpoint(b": keep-alive\n\n" * 100, end="repeat") as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST, limits)

    assert caught.value.code == "model_timeout"


@pytest.mark.parametrize(
    ("piece", "limits"),
    [
        pytest.param(said("again and "), ModelLimits(output_bytes_max=10_000), id="text for ever"),
        pytest.param(b": comment\n\n" * 100, ModelLimits(stream_bytes_max=10_000), id="comments for ever"),
        pytest.param(b"x" * 1000, ModelLimits(event_bytes_max=10_000), id="a line without an end"),
        pytest.param(said("x" * 20_000), ModelLimits(event_bytes_max=10_000), id="an oversized delta"),
        pytest.param(
            said("x").replace(b'"content": "x"', b'"tool_calls": [{"function": {"arguments": "aaaaaaaaaa"}}]'),
            ModelLimits(output_bytes_max=10_000),
            id="arguments for ever",
        ),
    ],
)
async def test_an_endless_answer_is_stopped_at_a_limit_and_not_asked_for_again(
    piece: bytes, limits: ModelLimits
) -> None:
    async with endpoint(piece, end="repeat") as server:
        with pytest.raises(ModelRefusedError) as caught:
            await heard(server, REQUEST, limits)
        await server.gone.wait()

    assert caught.value.code == "model_output_too_large"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
async def test_a_passing_failure_is_unavailable_and_asked_for_once(status: int) -> None:
    async with endpoint(b'{"error": {"message": "not now"}}', status=status) as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == ("model_rate_limited" if status == 429 else "model_failing")
    assert caught.value.retry_after_seconds is None
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("said_wait", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("3600", 3600.0), ("-1", 0.0), ("nan", None), ("inf", None), ("soon", None)],
)
async def test_the_wait_that_the_endpoint_asks_for_is_passed_on(said_wait: str, seconds: float | None) -> None:
    async with endpoint(status=429, headers={"Retry-After": said_wait}) as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.retry_after_seconds == seconds


async def test_the_wait_may_be_a_date() -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    async with endpoint(status=503, headers={"Retry-After": in_an_hour}) as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)

    assert caught.value.retry_after_seconds == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"message": "tools.0 is wrong"}, "model_request_refused"),
        (422, {"message": "no such field"}, "model_request_refused"),
        (401, {"code": "invalid_api_key", "type": "invalid_request_error"}, "model_access_denied"),
        (403, {}, "model_access_denied"),
        (404, {"code": "model_not_found"}, "model_not_found"),
        (402, {}, "model_quota_exhausted"),
        (429, {"code": "insufficient_quota"}, "model_quota_exhausted"),
        (400, {"code": "content_filter"}, "model_content_filter"),
        (413, {}, "context_length_exceeded"),
        (400, {"code": "context_length_exceeded", "type": "invalid_request_error"}, "context_length_exceeded"),
        (400, {"type": "exceed_context_size_error", "code": 400}, "context_length_exceeded"),
        (400, {"message": "This model's maximum context length is 4096 tokens."}, "context_length_exceeded"),
        (400, {"message": "the request exceeds the available context size"}, "context_length_exceeded"),
        (400, {"message": "exceed" * 10_000}, "model_request_refused"),  # read in no time
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}, "context_length_exceeded"),
    ],
)
async def test_what_no_other_try_will_mend_is_refused(status: int, error: dict[str, Any], code: str) -> None:
    async with endpoint(json.dumps({"error": error}).encode(), status=status) as server:
        with pytest.raises(ModelRefusedError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == code
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("param", "name"), [("response_format.json_schema", "'text.format'"), ("top_p", "'top_p'"), ("messages", "request")]
)
async def test_a_parameter_that_is_refused_is_named_as_the_client_knows_it(param: str, name: str) -> None:
    error = {"message": "No.", "type": "invalid_request_error", "param": param}
    async with endpoint(json.dumps({"error": error}).encode(), status=400) as server:
        with pytest.raises(ModelRefusedError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == "model_request_refused"
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "context_length_exceeded"}, "context_length_exceeded"),
        ({"code": 401}, "model_access_denied"),
        ({"code": "400", "message": "bad"}, "model_request_refused"),
        ({"type": "invalid_request_error"}, "model_request_refused"),
    ],
)
async def test_a_refusal_may_come_inside_the_stream(error: dict[str, Any], code: str) -> None:
    async with endpoint(chunk(error=error)) as server:
        with pytest.raises(ModelRefusedError) as caught:
            await heard(server, REQUEST)

    assert caught.value.code == code


async def test_an_endless_error_body_is_read_up_to_its_limit() -> None:
    async with endpoint(b"sorry, " * 100, status=500, end="repeat") as server:
        with pytest.raises(ModelUnavailableError) as caught:
            await heard(server, REQUEST)
        await server.gone.wait()

    assert caught.value.code == "model_failing"


@pytest.mark.parametrize(
    ("body", "status", "noted"),
    [
        (b'{"error": {"message": "key sk-123 is wrong", "code": "invalid_api_key"}}', 401, "code invalid_api_key"),
        (b'{"error": {"message": "no: sk-123", "code": "see sk-123", "type": ["sk-123"]}}', 400, "status 400"),
        (b"<html>sk-123</html>", 502, "status 502"),
        (b'data: {"error": {"message": "sk-123", "type": "sk-123 sk-123"}}\n\n', 200, "status 500"),
        (b'data: {"choices": [{"delta": {"content": "sk-123\n\n', 200, "no chunk, of 42 bytes"),
        (b"sk-123 sk-123\n\n", 200, "no event stream"),
        (said("x", finish="sk-123 is over"), 200, "finish reason"),
    ],
)
async def test_an_endpoints_words_go_nowhere_as_they_may_quote_the_prompt_or_the_key(
    body: bytes, status: int, noted: str
) -> None:
    """The notes are what the log gets: words of a machine, and numbers."""
    async with endpoint(body, status=status) as server:
        with pytest.raises((ModelRefusedError, ModelUnavailableError)) as caught:
            await heard(server, REQUEST)

    assert noted in "".join(caught.value.__notes__)
    assert "sk-123" not in f"{caught.value.message} {caught.value.__notes__}"


@pytest.mark.parametrize("pieces", [[], [said("Hel")]], ids=["before any text", "in the middle"])
async def test_cancelling_closes_the_request(pieces: list[bytes]) -> None:
    async with endpoint(*pieces, end="hang") as server:
        task = asyncio.create_task(heard(server, REQUEST))
        await server.asked.wait()

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await server.gone.wait()


async def test_closing_the_generator_closes_the_request() -> None:
    async with endpoint(said("Hel"), end="hang") as server, a_model(server) as model:
        answer = model.round(REQUEST)
        assert await anext(answer) == TextDelta("Hel")

        await answer.aclose()

        await server.gone.wait()


# The server


@dataclass
class Endpoint:
    """A model endpoint that gives every request the same answer."""

    pieces: Sequence[bytes]
    status: int
    headers: dict[str, str]
    end: EndOfAnswer
    raw: bytes = b""
    """Behind the pieces, once the test lets it `go_on`; without any, instead of a whole answer."""
    port: int = 0
    bodies: list[Any] = field(default_factory=list)
    connection_count: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """A client closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await self._read_request(reader)
                await self._answer(writer)
                if self.end in {"cut", "reset"}:
                    break
        if self.end == "reset":
            writer.transport.abort()
        writer.close()
        self.gone.set()

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.bodies.append(json.loads(await reader.readexactly(int(length.split(b":")[1]))))
        self.asked.set()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.raw and not self.pieces:
            writer.write(self.raw)
            await writer.drain()
            return
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **self.headers}
        head = [f"HTTP/1.1 {self.status} As told", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
        for piece in self.pieces if self.end != "repeat" else repeat(self.pieces[0]):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        if self.raw:
            await self.go_on.wait()
            writer.write(self.raw)
        if self.end == "clean":
            writer.write(b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def endpoint(
    *pieces: bytes,
    status: int = 200,
    headers: dict[str, str] | None = None,
    end: EndOfAnswer = "clean",
    raw: bytes = b"",
) -> AsyncIterator[Endpoint]:
    told = Endpoint(pieces, status, headers or {}, end, raw)
    connections: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append((asyncio.create_task(told.serve(reader, writer)), writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    told.port = server.sockets[0].getsockname()[1]
    try:
        yield told
    finally:
        server.close()
        for task, writer in connections:
            task.cancel()
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await task
            with suppress(ConnectionError):
                await writer.wait_closed()
        await server.wait_closed()


@asynccontextmanager
async def a_model(server: Endpoint, limits: ModelLimits | None = None) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(f"http://127.0.0.1:{server.port}/v1", "a-key", "a-model", limits=limits)
    try:
        yield model
    finally:
        await model.close()


async def collected(
    model: OpenAIModel, request: ModelRequest = REQUEST
) -> list[ReasoningDelta | TextDelta | ModelRound]:
    return [happening async for happening in model.round(request)]


async def heard(
    server: Endpoint, request: ModelRequest, limits: ModelLimits | None = None
) -> list[ReasoningDelta | TextDelta | ModelRound]:
    async with a_model(server, limits) as model:
        return await collected(model, request)


async def last_round(server: Endpoint, limits: ModelLimits | None = None) -> ModelRound:
    last = (await heard(server, REQUEST, limits))[-1]
    assert isinstance(last, ModelRound)
    return last
