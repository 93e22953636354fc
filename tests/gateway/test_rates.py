"""How often somebody may ask, and what is said when it is too often."""

import httpx2
import pytest
from fastapi import FastAPI

from gateway.rates import Rates, address_of
from gateway.settings import GatewaySettings
from shared.errors import LimitExceededError
from tests.gateway.conftest import Caller, GatewayWith
from tests.support.stack import token_of


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> Rates:
    return Rates("requests", per_second_max=2.0, burst_max=4, clock=clock)


def test_a_full_bucket_is_spent_at_once_and_comes_back_with_time(rates: Rates, clock: Clock) -> None:
    assert [rates.spend("ada").remaining for _ in range(4)] == [3, 2, 1, 0]

    with pytest.raises(LimitExceededError, match="at most 4 at once and 2 per second") as caught:
        rates.spend("ada")
    assert caught.value.code == "too_many_requests"
    assert caught.value.retry_after_seconds == pytest.approx(0.5)

    clock.now += 0.5
    assert rates.spend("ada").remaining == 0
    clock.now += 1_000_000
    assert rates.spend("ada").remaining == 3


def test_who_is_refused_pays_nothing(rates: Rates, clock: Clock) -> None:
    for _ in range(4):
        rates.spend("ada")
    for _ in range(100):
        with pytest.raises(LimitExceededError):
            rates.spend("ada")

    clock.now += 0.5
    rates.spend("ada")


def test_what_costs_less_can_be_had_more_often(rates: Rates) -> None:
    assert [rates.spend("ada", 0.2).remaining for _ in range(20)][-1] == 0

    with pytest.raises(LimitExceededError) as caught:
        rates.spend("ada", 0.2)
    assert caught.value.retry_after_seconds == pytest.approx(0.1)


def test_nobody_pays_for_another(rates: Rates) -> None:
    for _ in range(4):
        rates.spend("ada")

    assert rates.spend("bob").remaining == 3


def test_buckets_that_are_full_again_are_forgotten(rates: Rates, clock: Clock) -> None:
    for n in range(50):
        rates.spend(f"user-{n}")
    clock.now += 10
    for n in range(50):
        rates.spend(f"later-{n}")

    assert len(rates) == 50


def test_no_more_than_so_many_buckets_are_kept(rates: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.rates._KEYS_MAX", 10)
    for n in range(50):
        rates.spend(f"user-{n}")

    assert len(rates) == 10


@pytest.mark.parametrize(
    ("host", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("a.socket", "a.socket"),
    ],
)
def test_an_address_is_counted_with_those_that_its_owner_can_choose_from(host: str, counted_as: str) -> None:
    assert address_of({"client": (host, 1)}) == counted_as


@pytest.fixture
def app(gateway_settings: GatewaySettings, gateway_with: GatewayWith) -> FastAPI:
    """A gateway where five writes, or nine reads, are too many; their effect on it wears off after an hour."""
    limits = {
        "requests_per_second_max": 0.001,
        "requests_burst_max": 4,
        "anonymous_requests_per_second_max": 0.001,
        "anonymous_requests_burst_max": 4,
        "read_request_cost": 0.5,
    }
    return gateway_with(gateway_settings.model_copy(update=limits))


async def test_a_user_who_asks_too_often_is_told_when_to_come_again_and_nobody_else_is(app: FastAPI) -> None:
    ada, bob = (Caller(app, name, token_of(name)) for name in ("rated-ada", "rated-bob"))

    answers = [await ada.get("/v1/models") for _ in range(9)]

    assert [answer.status_code for answer in answers] == [200] * 8 + [429]
    first, refused = answers[0], answers[-1]
    assert first.headers["x-ratelimit-limit-requests"] == "4"
    assert first.headers["x-ratelimit-remaining-requests"] == "3"
    assert first.headers["x-ratelimit-reset-requests"] == "500.000s"
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(refused.headers["retry-after"]) <= 500
    assert (await bob.get("/v1/models")).status_code == 200


async def test_writing_costs_more_than_reading(app: FastAPI) -> None:
    ada = Caller(app, "ada", token_of("rated-writer"))

    statuses = [(await ada.post("/v1/responses", content=b"")).status_code for _ in range(5)]

    assert statuses == [400] * 4 + [429]


@pytest.mark.parametrize("path", ["/v1/conversations", "/nowhere", "/docs", "/v1/nothing"])
@pytest.mark.parametrize("authorization", [None, "Bearer nonsense"])
async def test_strangers_are_counted_by_their_address(app: FastAPI, path: str, authorization: str | None) -> None:
    stranger = Caller(app, "nobody", None)
    headers = {"authorization": authorization} if authorization else {}
    for _ in range(8):
        assert (await stranger.get(path, headers=headers)).status_code in (200, 401, 404)

    refused = await stranger.get("/v1/conversations", headers=headers)

    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 500
    # Whoever has a token is not kept out by others behind the same address.
    assert (await Caller(app, "ada", token_of("ada")).get("/v1/models")).status_code == 200


async def test_probes_of_health_are_not_counted(app: FastAPI) -> None:
    stranger = Caller(app, "nobody", None)

    assert {(await stranger.get("/health/live")).status_code for _ in range(20)} == {httpx2.codes.OK}
