"""What arrives: the request body of chat completions, the parts of it that matter here. Unknown fields are ignored."""

from typing import Any

import msgspec


class Function(msgspec.Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    id: str = ""
    function: Function = Function()


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content's text, without its images and files."""
        if isinstance(self.content, list):
            return "\n".join(str(part.get("text", "")) for part in self.content if part.get("type") == "text")
        return self.content or ""

    @property
    def attachments(self) -> list[dict[str, Any]]:
        """The content's images and files, as they are."""
        parts = self.content if isinstance(self.content, list) else ()
        return [part for part in parts if part.get("type") in {"image_url", "file"}]


class ToolFunction(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    function: ToolFunction
    type: str = "function"


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    model: str
    messages: list[Message]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1


class RequestError(Exception):
    """The request cannot be answered as it is. `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises `RequestError` for what is no valid request."""
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        raise RequestError(f"Invalid request: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("We could not parse the JSON body of your request.") from error
    if not request.messages:
        raise RequestError("Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
    if request.n not in (None, 1):
        raise RequestError("This model gives one choice: 'n' must be 1.", "n")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise RequestError(f"Invalid '{name}': expected a value >= 1.", name)
    return request
