"""What the OpenAPI document says beside what the routes say themselves: `FastAPI(**openapi.DOCUMENT)`."""

from importlib.metadata import version
from typing import Any

_DESCRIPTION = """\
Send messages, follow the answers, and keep everything.

* **`/v1`** speaks OpenAI's Responses and Conversations API: point any OpenAI client here, with the access token as its
  API key. Answers come at once, as a stream that can be resumed at any event, or in the background.
* **`/api`** is a simple contract over the same conversations: one message in, one answer out; lists; the to-do list.
  The same paths answer under `/api/v1`.

Every request needs `Authorization: Bearer <access token>`. Every answer carries `x-request-id`. A 2xx means that the
message is stored and will be answered, whatever fails afterwards.
"""

DOCUMENT: dict[str, Any] = {
    "title": "Parley",
    "summary": "An event-driven chat backend: messages in, resumable streams out.",
    "description": _DESCRIPTION,
    "version": version("parley-gateway"),
    "openapi_tags": [
        {"name": "chat", "description": "One message in, one answer out."},
        {"name": "conversations", "description": "Threads of messages, each of one user."},
        {"name": "tasks", "description": "The to-do list that the assistant works on too."},
        {"name": "responses", "description": "OpenAI's Responses API: create, retrieve, follow, cancel, delete."},
        {"name": "conversations (OpenAI)", "description": "OpenAI's Conversations API."},
        {"name": "shares", "description": "Links by which others may read a conversation."},
        {"name": "files", "description": "OpenAI's Files API: images and documents to talk about."},
        {"name": "chat completions", "description": "OpenAI's Chat Completions, for tools that know nothing else."},
        {"name": "webhooks", "description": "Who is told when a response ends, by a signed request."},
        {"name": "models", "description": "The agents, each under the name of a model."},
        {"name": "usage", "description": "Tokens used, day by day."},
        {"name": "session", "description": "For web pages: a cookie in place of the token."},
        {"name": "health", "description": "For whoever operates the service."},
    ],
}
