"""How each system is talked to: what a turn is as a request, and what its answer's events say."""

import uuid
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from bench.load.http import Request

_encode = msgspec.json.encode


@dataclass(slots=True)
class Conversation:
    """One user's thread. `id` is what the system calls it; None until that is known."""

    user_id: str
    token: str = ""
    id: str | None = None
    turn_count: int = 0


@dataclass(slots=True)
class Heard:
    """What was heard of one answer so far. `cursor` and `response_id`: where to resume, where that can be."""

    pieces: list[str] = field(default_factory=list)
    is_ended: bool = False
    trouble: str = ""
    cursor: int = -1
    response_id: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Dialect(Protocol):
    """Of one system. Requests are for its base address."""

    name: str

    def begin(self, conversation: Conversation) -> Request | None:
        """What makes a conversation before its first turn, where the system wants that."""

    def begun(self, conversation: Conversation, body: bytes) -> None:
        """Take the answer to that."""

    def post(self, conversation: Conversation, text: str) -> Request:
        """A turn, answered by the stream of its events."""

    def hear(self, frame: bytes, conversation: Conversation, heard: Heard) -> None:
        """Take one event of it."""


class Resumable(Dialect, Protocol):
    """Of a system whose streams can be left, polled and stopped."""

    def post_apart(self, conversation: Conversation, text: str, key: str) -> Request:
        """A turn, answered at once with its id; the same one, if it is sent again with the same `key`."""

    def posted(self, conversation: Conversation, heard: Heard, body: bytes) -> None:
        """Take that answer."""

    def resume(self, conversation: Conversation, heard: Heard) -> Request:
        """The rest of the stream, behind what was heard."""

    def poll(self, conversation: Conversation, heard: Heard) -> Request: ...

    def polled(self, body: bytes) -> tuple[str, str]:
        """The state ("running", "completed", "cancelled" or another end) and the text, as the answer to `poll` says."""

    def cancel(self, conversation: Conversation, heard: Heard) -> Request: ...


class _Inner(msgspec.Struct):
    id: str = ""
    status: str = ""
    conversation: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    output: list[dict[str, Any]] = []


class _Item(msgspec.Struct):
    status: str = ""


class _Event(msgspec.Struct):
    type: str
    sequence_number: int = -1
    delta: str = ""
    response: _Inner | None = None
    item: _Item | None = None


class Parley:
    """The Responses API."""

    def __init__(self, name: str = "parley", model: str = "chat") -> None:
        self.name = name
        self._model = model
        self._event = msgspec.json.Decoder(_Event)
        self._response = msgspec.json.Decoder(_Inner)

    def begin(self, _conversation: Conversation) -> Request | None:
        return None  # the first turn does

    def begun(self, conversation: Conversation, body: bytes) -> None: ...

    def post(self, conversation: Conversation, text: str, **more: Any) -> Request:
        said: dict[str, Any] = {"model": self._model, "input": text, "stream": True, **more}
        if conversation.id:
            said["conversation"] = conversation.id
        return Request("POST", "/v1/responses", self._headers(conversation), _encode(said))

    def hear(self, frame: bytes, conversation: Conversation, heard: Heard) -> None:
        data = frame[frame.find(b"data: ") + 6 :] if b"data: " in frame else b""
        if not data or data == b"[DONE]":
            return
        event = self._event.decode(data)
        if event.sequence_number != heard.cursor + 1:
            heard.trouble = heard.trouble or f"event {event.sequence_number} after {heard.cursor}"
        heard.cursor = event.sequence_number
        match event.type:
            case "response.output_text.delta":
                heard.pieces.append(event.delta)
            case "response.created":
                self._know(conversation, heard, event.response)
            case "response.output_item.done":
                if event.item is not None and event.item.status == "incomplete":
                    heard.pieces.clear()  # of an attempt that died; the answer follows in another item
            case "response.completed":
                heard.is_ended = True
            case "response.failed" | "response.incomplete":
                heard.is_ended = True
                assert event.response is not None
                heard.trouble = f"{event.response.status}: {event.response.error}"

    def post_apart(self, conversation: Conversation, text: str, key: str) -> Request:
        request = self.post(conversation, text, stream=False, background=True)
        return replace(request, headers={**request.headers, "idempotency-key": key})

    def posted(self, conversation: Conversation, heard: Heard, body: bytes) -> None:
        self._know(conversation, heard, self._response.decode(body))

    def resume(self, conversation: Conversation, heard: Heard) -> Request:
        after = f"&starting_after={heard.cursor}" if heard.cursor >= 0 else ""
        return self._get(conversation, f"/v1/responses/{heard.response_id}?stream=true{after}")

    def poll(self, conversation: Conversation, heard: Heard) -> Request:
        return self._get(conversation, f"/v1/responses/{heard.response_id}")

    def polled(self, body: bytes) -> tuple[str, str]:
        response = self._response.decode(body)
        texts = [part["text"] for item in response.output for part in item.get("content", ())]
        return "running" if response.status in {"queued", "in_progress"} else response.status, "".join(texts)

    def cancel(self, conversation: Conversation, heard: Heard) -> Request:
        return Request("POST", f"/v1/responses/{heard.response_id}/cancel", self._headers(conversation))

    def _get(self, conversation: Conversation, path: str) -> Request:
        return Request("GET", path, self._headers(conversation))

    def _headers(self, conversation: Conversation) -> dict[str, str]:
        return {"authorization": f"Bearer {conversation.token}"}

    def _know(self, conversation: Conversation, heard: Heard, response: _Inner | None) -> None:
        assert response is not None
        heard.response_id = response.id
        if response.conversation:
            conversation.id = response.conversation["id"]


class Floor(Parley):
    """Our own hops without features: the same events, and ids that the client makes."""

    def __init__(self) -> None:
        super().__init__("floor")

    def post(self, conversation: Conversation, text: str, **_more: Any) -> Request:
        conversation.id = conversation.id or str(uuid.uuid4())
        return Request("POST", "/turns", {}, _encode({"conversation": conversation.id, "input": text}))


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


class Direct:
    """The model itself, asked by chat completions: what there is without any system."""

    name = "direct"

    def __init__(self) -> None:
        self._chunk = msgspec.json.Decoder(_Chunk)

    def begin(self, _conversation: Conversation) -> Request | None:
        return None

    def begun(self, conversation: Conversation, body: bytes) -> None: ...

    def post(self, _conversation: Conversation, text: str) -> Request:
        said = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": text}]}
        return Request("POST", "/v1/chat/completions", {}, _encode(said))

    def hear(self, frame: bytes, _conversation: Conversation, heard: Heard) -> None:
        data = frame.removeprefix(b"data: ")
        if data == b"[DONE]" or not data:
            return
        for choice in self._chunk.decode(data).choices:
            if choice.delta.content:
                heard.pieces.append(choice.delta.content)
            heard.is_ended = heard.is_ended or choice.finish_reason == "stop"


class _Plain(msgspec.Struct):
    delta: str = ""
    done: bool = False
    error: str = ""


class Plain:
    """Chats of our own writing that stream `{"delta": …}` and end with `{"done": true}`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._event = msgspec.json.Decoder(_Plain)

    def begin(self, _conversation: Conversation) -> Request | None:
        return Request("POST", "/conversations")

    def begun(self, conversation: Conversation, body: bytes) -> None:
        conversation.id = str(msgspec.json.decode(body)["id"])

    def post(self, conversation: Conversation, text: str) -> Request:
        return Request("POST", f"/conversations/{conversation.id}/messages", {}, _encode({"content": text}))

    def hear(self, frame: bytes, _conversation: Conversation, heard: Heard) -> None:
        if not frame.startswith(b"data: "):
            return
        event = self._event.decode(frame[6:])
        if event.delta:
            heard.pieces.append(event.delta)
        heard.is_ended = heard.is_ended or event.done
        heard.trouble = heard.trouble or event.error


class LangGraph:
    """LangGraph's server: threads, and runs that stream the model's tokens."""

    name = "langgraph"

    def begin(self, _conversation: Conversation) -> Request | None:
        return Request("POST", "/threads", {}, b'{"metadata":{"graph_id":"chat"}}')

    def begun(self, conversation: Conversation, body: bytes) -> None:
        conversation.id = msgspec.json.decode(body)["thread_id"]

    def post(self, conversation: Conversation, text: str) -> Request:
        said = {
            "assistant_id": "chat",
            "input": {"messages": [{"role": "user", "content": text}]},
            "stream_mode": ["messages-tuple"],
            "multitask_strategy": "enqueue",
        }
        return Request("POST", f"/threads/{conversation.id}/runs/stream", {}, _encode(said))

    def hear(self, frame: bytes, _conversation: Conversation, heard: Heard) -> None:
        name, _, data = frame.partition(b"\n")
        data = data.removeprefix(b"data: ")
        if name == b"event: error":
            heard.trouble = data.decode(errors="replace")[:300]
            heard.is_ended = True
        elif name == b"event: messages":
            message, _ = msgspec.json.decode(data.partition(b"\n")[0])
            if message["type"] == "AIMessageChunk" and isinstance(message["content"], str) and message["content"]:
                heard.pieces.append(message["content"])
            if message.get("response_metadata", {}).get("finish_reason") == "stop":
                heard.is_ended = True


def dialect_of(name: str) -> Dialect:
    """By the name of the system."""
    match name:
        case "parley":
            return Parley()
        case "parley-todo":
            return Parley("parley", "todo")
        case "floor":
            return Floor()
        case "direct":
            return Direct()
        case "langgraph":
            return LangGraph()
        case _:
            return Plain(name)
