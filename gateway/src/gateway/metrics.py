"""What a gateway process counts about itself, for `GET /metrics`. No label ever holds what a client has chosen."""

import asyncio
import time
from contextlib import suppress

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from shared.observability import process_metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LAG_SECONDS = 0.25  # between two looks at the clock

REQUESTS = Counter("parley_gateway_requests", "Requests that were answered.", ["method", "route", "status"])
REFUSED = Counter(
    "parley_gateway_rejected_requests", "Requests that were refused, by the code of their error.", ["reason"]
)
TOKENS_REFUSED = Counter(
    "parley_gateway_refused_tokens", "Credentials that do not hold, by what is wrong with them.", ["reason"]
)
KEY_REFRESHES = Counter(
    "parley_gateway_key_refreshes", "Requests for the identity provider's keys, by their outcome.", ["outcome"]
)
FEEDBACK = Counter("parley_gateway_feedback", "Ratings that users gave to responses.", ["rating"])
OPEN = Gauge("parley_gateway_open", "What requests hold open at this process, by its kind.", ["kind"])
CONNECTIONS = Gauge("parley_gateway_connections", "Connections of clients, idle ones too.")
LOOP_LAG = Histogram(
    "parley_gateway_loop_lag_seconds",
    "How late the event loop came to something that was due: everybody waited as long.",
    buckets=(0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)


def count_request(scope: Scope, status: int) -> None:
    """Count the request of `scope`, which was answered with `status`; 0: its client went away before."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS.labels(method, route_of(scope), str(status)).inc()


def route_of(scope: Scope) -> str:
    """The template of the path that the request came by, such as `/v1/responses/{response_id}`; else `other`."""
    # FastAPI's own note of the route within its router; a route by itself knows nothing of the router's prefix.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    template: str = getattr(route, "path", "other")
    return template


async def watch_loop() -> None:
    """Measure how late the event loop is, until cancelled."""
    with suppress(asyncio.CancelledError):
        while True:
            due_at = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            LOOP_LAG.observe(max(0.0, time.monotonic() - due_at))


async def answer_metrics() -> Response:
    """All of it, in the text form of Prometheus."""
    return Response(generate_latest() + process_metrics(), media_type=CONTENT_TYPE_LATEST)
