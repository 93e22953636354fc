"""What a gateway process counts about itself, for `GET /metrics`. No label ever holds what a client has chosen."""

import time
from collections.abc import Sequence

from fastapi import Response
from starlette.types import Scope

from shared.events import Event
from shared.metrics import CONTENT_TYPE, FAST_SECONDS, SLOW_SECONDS, Counter, Gauge, Histogram, text_of

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TEXT = b'{"type":"response.output_text.delta"'  # as the event of a piece of text begins

REQUESTS = Counter("parley_gateway_requests", "Requests that were answered.", ["method", "route", "status"])
ANSWER_SECONDS = Histogram(
    "parley_gateway_answer_seconds",
    "From the request to the first byte of its answer.",
    ["route"],
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REFUSED = Counter(
    "parley_gateway_rejected_requests", "Requests that were refused, by the code of their error.", ["reason"]
)
TOKENS_REFUSED = Counter(
    "parley_gateway_refused_tokens", "Credentials that do not hold, by what is wrong with them.", ["reason"]
)
KEY_REFRESHES = Counter(
    "parley_gateway_key_refreshes",
    "Requests for the identity provider's keys, by their outcome.",
    ["outcome"],
    known=[("refreshed",), ("failed",)],
)
FEEDBACK = Counter("parley_gateway_feedback", "Ratings that users gave to responses.", ["rating"])
OPEN = Gauge("parley_gateway_open", "What requests hold open at this process, by its kind.", ["kind"])
CONNECTIONS = Gauge("parley_gateway_connections", "Connections of clients, idle ones too.")
TURNS = Counter("parley_gateway_turns", "Turns that were asked for: accepted, or repeated.", ["outcome"])
ACCEPT_SECONDS = Histogram(
    "parley_gateway_accept_seconds", "The transaction that accepts a turn, with its commit.", bounds=FAST_SECONDS
)
FIRST_TOKEN_SECONDS = Histogram(
    "parley_gateway_first_token_seconds",
    "From the acceptance of a turn to its first text, for who streams it.",
    bounds=SLOW_SECONDS,
)
EVENTS_SENT = Counter("parley_gateway_events_sent", "Events that were sent to clients.")
RESUMES = Counter("parley_gateway_resumes", "Streams that were opened to go on behind a number.")
GAPS_HEALED = Counter(
    "parley_gateway_gaps_healed", "Events missing live that were found in the journal, by what told so.", ["cause"]
)
STREAMS_CLOSED = Counter("parley_gateway_streams_closed", "Streams that ended, by what ended them.", ["cause"])


class SentEvents:
    """Counts what one stream sends. `accepted_at`, on `time.perf_counter`: it is the one of a turn's own request."""

    __slots__ = ("_waits_since", "count")

    def __init__(self, accepted_at: float | None = None) -> None:
        self.count = 0
        self._waits_since = accepted_at

    def add(self, events: Sequence[Event]) -> None:
        self.count += len(events)
        EVENTS_SENT.inc(len(events))
        if self._waits_since is not None and any(event.startswith(_TEXT) for event in events):
            FIRST_TOKEN_SECONDS.observe(time.perf_counter() - self._waits_since)
            self._waits_since = None


def count_request(method: str, route: str, status: int) -> None:
    """Count a request that was answered with `status`; 0: its client went away before."""
    REQUESTS.labels(method if method in _METHODS else "other", route, str(status)).inc()


def count_gap(cause: str) -> None:
    GAPS_HEALED.labels(cause).inc()


def route_of(scope: Scope) -> str:
    """The template of the path that the request came by, such as `/v1/responses/{response_id}`; else `other`."""
    # FastAPI's own note of the route within its router; a route by itself knows nothing of the router's prefix.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    template: str = getattr(route, "path", "other")
    return template


async def answer_metrics() -> Response:
    """All of it, in the text form of Prometheus."""
    return Response(text_of(), media_type=CONTENT_TYPE)
