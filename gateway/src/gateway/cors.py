"""Which web pages of other origins may send requests: those on a list, by a token in a header, never by a cookie."""

from collections.abc import Collection
from typing import Any

_PREFLIGHT_SECONDS = 600  # how long a browser need not ask again
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REQUEST_HEADERS = (
    "authorization",
    "idempotency-key",
    "last-event-id",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "prefer",
    "x-request-id",
    # What OpenAI's client in a browser sends with each request.
    "x-stainless-arch",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)
_ANSWER_HEADERS = (
    "content-disposition",
    "location",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
)


def cors_options(origins: Collection[str]) -> dict[str, Any]:
    """For Starlette's `CORSMiddleware`. Without `allow_credentials` no browser shows an answer to a cookie."""
    return {
        "allow_origins": origins,
        "allow_methods": _METHODS,
        "allow_headers": _REQUEST_HEADERS,
        "expose_headers": _ANSWER_HEADERS,
        "allow_credentials": False,
        "max_age": _PREFLIGHT_SECONDS,
    }
