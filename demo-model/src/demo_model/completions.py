"""What is sent: chat completions, whole or as chunks, exactly in the shape of the real API; and how tokens are counted.

A token is a word together with the white space before it, for prompts as for answers, in texts, arguments and tool
definitions alike. In a stream every token is one delta.
"""

import itertools
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from demo_model.wire import ChatRequest

_PIECE = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")
_FINGERPRINT = "fp_parley_demo"
_TOKENS_PER_ATTACHMENT = 85  # as the real API counts a small image
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class SentCall:
    id: str
    name: str
    pieces: Sequence[str]  # of the arguments


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer cut into tokens: of a text, or of the arguments of tool calls. `pieces` may be endless.

    `reasoning` comes before it and is paid for as part of it.
    """

    pieces: Iterable[str] = ()
    calls: tuple[SentCall, ...] = ()
    finish: str = "stop"
    reasoning: Sequence[str] = ()


def text_reply(text: str) -> Reply:
    return Reply(pieces_of(text))


def numbered_reply(tokens: int | None) -> Reply:
    """ "w0 w1 w2 …", so that a test sees each lost or doubled word; without end if `tokens` is None."""
    numbers = itertools.count() if tokens is None else range(tokens)
    words = (f" w{number}" if number else "w0" for number in numbers)
    return Reply(words if tokens is None else list(words))


def thought_over(reply: Reply, words: int) -> Reply:
    """The reply, with that many numbered words of reasoning before it: "r0 r1 r2 …"."""
    return replace(reply, reasoning=[f" r{number}" if number else "r0" for number in range(words)])


def calls_reply(calls: Iterable[tuple[str, str]]) -> Reply:
    """Calls of tools: name and JSON text of the arguments."""
    sent = tuple(SentCall(f"call_{uuid.uuid4().hex[:24]}", name, pieces_of(arguments)) for name, arguments in calls)
    return Reply(calls=sent, finish="tool_calls")


def pieces_of(text: str) -> list[str]:
    """The tokens of a text; joined they are the text."""
    return _PIECE.findall(text)


def limited(reply: Reply, tokens_max: int | None) -> Reply:
    """The reply cut after `tokens_max` tokens, with finish_reason "length" if anything was cut off."""
    if tokens_max is None:
        return reply
    if len(reply.reasoning) >= tokens_max:
        return Reply(reasoning=reply.reasoning[:tokens_max], finish="length")
    tokens_max -= len(reply.reasoning)
    if reply.calls:
        return _limited_calls(reply, tokens_max)
    pieces = list(itertools.islice(reply.pieces, tokens_max + 1))
    if len(pieces) <= tokens_max:
        return replace(reply, pieces=pieces)
    return replace(reply, pieces=pieces[:tokens_max], finish="length")


def _limited_calls(reply: Reply, tokens_max: int) -> Reply:
    left, kept = tokens_max, []
    for call in reply.calls:
        if left > 0:
            kept.append(replace(call, pieces=call.pieces[:left]))
        left -= len(call.pieces)
    return replace(reply, calls=tuple(kept), finish="length" if left < 0 else reply.finish)


def prompt_tokens(request: ChatRequest) -> int:
    """The words of all messages, of the calls in them and of the tools offered; some for each image and file."""
    count = sum(len(message.text.split()) for message in request.messages)
    count += sum(_TOKENS_PER_ATTACHMENT * len(message.attachments) for message in request.messages)
    for message in request.messages:
        count += sum(len(call.function.arguments.split()) + 1 for call in message.tool_calls or ())
    for tool in request.tools or ():
        schema = msgspec.json.format(msgspec.json.encode(tool.function.parameters or {}), indent=0).decode()
        count += 1 + len((tool.function.description or "").split()) + len(schema.split())
    return count


class Framing:
    """The frames of one completion. All that is the same in every chunk is encoded once."""

    def __init__(self, request: ChatRequest) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex[:29]}"
        self._created = int(time.time())
        self._model = request.model
        self._request = request
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        head = msgspec.json.encode(self._header("chat.completion.chunk"))[:-1]
        usage = b',"usage":null' if self._with_usage else b""
        self._before = b"data: " + head + b',"choices":[{"index":0,"delta":'
        self._after = b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._before_text = self._before + b'{"content":'
        self._after_text = b"}" + self._after
        self._before_thought = self._before + b'{"reasoning_content":'
        self._head, self._usage = head, usage
        self._reasoning_count = 0

    def first(self, reply: Reply) -> bytes:
        """The chunk that names the role."""
        content = "null" if reply.calls else '""'
        return self._chunk(f'{{"role":"assistant","content":{content},"refusal":null}}'.encode())

    def deltas(self, reply: Reply) -> Iterator[bytes]:
        """A frame per token; that of a call's first token is preceded by the call's id and name."""
        before, after, encode = self._before_text, self._after_text, msgspec.json.encode
        for piece in reply.reasoning:
            self._reasoning_count += 1
            yield self._before_thought + encode(piece) + after
        for piece in reply.pieces:
            yield before + encode(piece) + after
        for index, call in enumerate(reply.calls):
            opening = {
                "index": index,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": ""},
            }
            frames = [self._chunk(encode({"tool_calls": [opening]}))]
            for piece in call.pieces:
                frames.append(self._chunk(encode({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})))
                yield b"".join(frames)
                frames.clear()
            if frames:
                yield frames[0]

    def last(self, finish: str, tokens: int) -> bytes:
        """The chunk with the reason, the usage if it was asked for, and the end mark. `tokens` were sent."""
        choice = b',"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}]' % finish.encode()
        frames = b"data: " + self._head + choice + self._usage + b"}\n\n"
        if self._with_usage:
            frames += (
                b"data: " + self._head + b',"choices":[],"usage":' + msgspec.json.encode(self._spent(tokens)) + b"}\n\n"
            )
        return frames + DONE

    def error(self, error: dict[str, Any]) -> bytes:
        """An error event in the middle of a stream."""
        return b"data: " + msgspec.json.encode(error) + b"\n\n"

    def whole(self, reply: Reply, finish: str | None) -> bytes:
        """The completion as one body. `reply` must have an end."""
        pieces = list(reply.pieces)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces), "refusal": None, "annotations": []}
        if reply.calls:
            message |= {"content": None, "tool_calls": [_whole_call(call) for call in reply.calls]}
        if reply.reasoning:
            message["reasoning_content"] = "".join(reply.reasoning)
        self._reasoning_count = len(reply.reasoning)
        tokens = len(reply.reasoning) + len(pieces) + sum(len(call.pieces) for call in reply.calls)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return msgspec.json.encode(
            self._header("chat.completion") | {"choices": [choice], "usage": self._spent(tokens)}
        )

    def _header(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }

    def _chunk(self, delta: bytes) -> bytes:
        return self._before + delta + self._after

    def _spent(self, tokens: int) -> dict[str, Any]:
        prompt = prompt_tokens(self._request)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self._reasoning_count,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def _whole_call(call: SentCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": "".join(call.pieces)}}
