"""What a gateway process tells of itself, and to whom."""

import asyncio
import time
from collections.abc import Mapping

import httpx2
import pytest
from fastapi import FastAPI

from gateway.app import create_app, create_internal_app
from gateway.settings import GatewaySettings
from gateway.until import Signal
from shared.metrics import value
from shared.settings import Profile
from tests.gateway.conftest import Caller, Serve
from tests.support.stack import JWT_SECRET
from tests.support.waiting import wait_until


def requests(route: str, status: int, method: str = "GET") -> float:
    return value("parley_gateway_requests_total", method=method, route=route, status=str(status))


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/v1/conversations/conv_0199c3f2a4d87b3f8e5d2c1b0a998877", "/v1/conversations/{conversation_id}", 404),
        ("/api/conversations", "/api/conversations", 200),
        ("/api/v1/conversations", "/api/v1/conversations", 200),
        ("/health/live", "/health/live", 200),
        ("/metrics", "/metrics", 200),
        ("/assets/any/number/of/parts.js", "/assets/{name:path}", 404),
        ("/nowhere/0199c3f2a4d87b3f8e5d2c1b0a998877", "other", 404),
    ],
)
async def test_requests_are_counted_by_route_and_never_by_path(ada: Caller, path: str, route: str, status: int) -> None:
    before = requests(route, status)

    assert (await ada.get(path)).status_code == status

    assert requests(route, status) == before + 1


async def test_what_a_client_chooses_is_no_label(ada: Caller) -> None:
    for method in ("PROPFIND", "GET"):
        for path in ("/canary-path/x", "/assets/canary-path/x/y/z"):
            await ada.request(method, path, headers={"x-request-id": "canary-id", "user-agent": "canary-agent"})

    told = (await ada.get("/metrics")).text

    assert "parley_gateway_requests_total" in told
    assert "canary" not in told
    assert "PROPFIND" not in told
    assert ada.user_id not in told


async def test_refusals_are_counted_by_the_code_of_their_error(ada: Caller) -> None:
    before = value("parley_gateway_rejected_requests_total", reason="message_empty")

    await ada.post("/api/chat", json={"message": ""})

    assert value("parley_gateway_rejected_requests_total", reason="message_empty") == before + 1


@pytest.mark.usefixtures("gateway")
async def test_who_holds_up_the_event_loop_is_noticed() -> None:
    before = value("parley_process_loop_lag_seconds_sum")
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251  longer than from one look at the clock to the next

    async def is_noticed() -> bool:
        return value("parley_process_loop_lag_seconds_sum") >= before + 0.3

    await wait_until(is_noticed)


def production(**more: object) -> GatewaySettings:
    facts = {"database_url": "postgresql://x", "jwt_secret": JWT_SECRET, "profile": Profile.PRODUCTION}
    return GatewaySettings.model_validate({**facts, **more})


@pytest.mark.parametrize("more", [{}, {"metrics_port": 9_000}])
async def test_in_production_the_public_port_has_no_metrics(more: Mapping[str, object]) -> None:
    app = create_app(production(**more))

    assert (await Caller(app, "nobody", None).get("/metrics")).status_code == httpx2.codes.NOT_FOUND


async def test_a_gateway_that_is_told_to_stop_is_not_ready_and_says_so_on_both_ports(gateway: FastAPI) -> None:
    stopping = Signal()
    app = create_app(gateway.state.services.settings, stopping)
    app.state.services = gateway.state.services
    callers = [Caller(each, "nobody", None) for each in (app, create_internal_app(app))]
    before = [await caller.get("/health/ready") for caller in callers]

    stopping.set()
    ready = [await caller.get("/health/ready") for caller in callers]
    live = [await caller.get("/health/live") for caller in callers]

    assert [answer.status_code for answer in before] == [200, 200]
    assert [(answer.status_code, answer.json()["status"]) for answer in ready] == [(503, "stopping")] * 2
    assert [answer.status_code for answer in live] == [200, 200]


async def test_a_port_of_their_own_has_metrics_and_health_and_nothing_else(serve: Serve) -> None:
    async with serve(metrics_port=0) as served, httpx2.AsyncClient() as client:
        internal = f"http://127.0.0.1:{served.internal_port}"
        public = f"http://127.0.0.1:{served.port}"
        statuses = {
            address: (await client.get(address)).status_code
            for address in (
                f"{internal}/metrics",
                f"{internal}/health/live",
                f"{internal}/health/ready",
                f"{internal}/v1/models",
                f"{internal}/docs",
                f"{public}/metrics",
                f"{public}/health/live",
            )
        }

    assert list(statuses.values()) == [200, 200, 200, 404, 404, 404, 200]
