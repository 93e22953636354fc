"""An MCP server whose tools say what a test wants, and which remembers every request as it came."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def claims(self) -> dict[str, Any]:
        """What its token says; whose signature it has is not looked at."""
        token = self.headers["authorization"].removeprefix("Bearer ")
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return claims


def listed(name: str, description: str = "", *, schema: Any = None, **hints: bool) -> dict[str, Any]:
    """A tool as a server lists it; `hints` are its annotations."""
    return {
        "name": name,
        "description": description,
        "inputSchema": schema or {"type": "object"},
        "annotations": {"readOnlyHint": False, **hints},
    }


@dataclass
class ToolServerDouble:
    """An ASGI application. A tool's answer is the result of `tools/call`, by its name; text stands for itself."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def calls(self) -> list[Request]:
        return [request for request in self.requests if request.json["method"] == "tools/call"]

    @property
    def called(self) -> list[str]:
        """The names of the tools that were called."""
        return [request.json["params"]["name"] for request in self.calls]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        request = Request(headers, bytes(body))
        self.requests.append(request)
        answer = json.dumps({"jsonrpc": "2.0", "id": request.json["id"], **self._outcome(request.json)})
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        await send(start)
        await send({"type": "http.response.body", "body": answer.encode()})

    def _outcome(self, request: Any) -> dict[str, Any]:
        match request["method"]:
            case "tools/list":
                return _complete(tools=self.tools, ttlMs=0, cacheScope="private")
            case "tools/call":
                answer = self.answers.get(request["params"]["name"], "done")
                return _complete(**(_text(answer) if isinstance(answer, str) else answer))
            case _:
                return {"error": {"code": -32601, "message": "not known"}}


def _complete(**result: Any) -> dict[str, Any]:
    return {"result": {"resultType": "complete", **result}}


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}
