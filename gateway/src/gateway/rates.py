"""How often somebody may ask: a token bucket for each user, address, or whatever a caller counts by.

Buckets are in the memory of one gateway process: with several processes, each allows as much.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import answer_headers_of, problem_of, render
from gateway.settings import GatewaySettings
from shared.errors import LimitExceededError

_KEYS_MAX = 100_000
_ROUNDING = 1e-6  # sums of fractions are off by less; nobody is refused for that
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_COUNTED = "is_counted_by_address"
_CREDENTIALS = frozenset({b"authorization", b"cookie"})
_IPV6_NETWORK_BITS = 64  # what one customer has: who is counted by address could choose from 2**64


@dataclass(frozen=True, slots=True)
class Standing:
    """What a bucket holds after a request: `limit` requests when full, `remaining` now, full in `reset_seconds`."""

    limit: int
    remaining: int
    reset_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """As OpenAI's clients know it."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset_seconds:.3f}s",
        }


class Rates:
    """A bucket for each key: it holds `burst_max` tokens and gets back `per_second_max` of them each second.

    At most `_KEYS_MAX` buckets are kept; those that were not used for longest are forgotten, and are full again.
    """

    def __init__(
        self, what: str, *, per_second_max: float, burst_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`what` there is too much of is told to the user, and in the code: `too_many_<what>`."""
        self._what = what
        self._per_second_max = per_second_max
        self._burst_max = burst_max
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when each bucket is full again, last used last

    def spend(self, key: str, cost: float = 1.0) -> Standing:
        """Take `cost` tokens out of the bucket of `key`.

        Raises LimitExceededError, and takes nothing, where it holds less; with the time until it holds enough.
        """
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + cost / self._per_second_max
        missing_seconds = full_at - now - self._burst_max / self._per_second_max
        if missing_seconds > _ROUNDING:
            message = (
                f"Too many {self._what.replace('_', ' ')}: at most {self._burst_max} at once "
                f"and {self._per_second_max:g} per second."
            )
            raise LimitExceededError(f"too_many_{self._what}", message, retry_after_seconds=missing_seconds)
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        self._forget(now)
        return self._standing(full_at - now)

    def _standing(self, reset_seconds: float) -> Standing:
        remaining = math.floor(self._burst_max - reset_seconds * self._per_second_max + _ROUNDING)
        return Standing(self._burst_max, max(0, remaining), reset_seconds)

    def _forget(self, now: float) -> None:
        """Drop the two buckets unused for longest where they are full, which is what a new one is; keep to the limit.

        Each call adds one at most, so that two are enough to catch up.
        """
        for _ in range(2):
            key, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= _KEYS_MAX:
                return
            del self._full_at[key]

    def __len__(self) -> int:
        return len(self._full_at)


def address_of(scope: Scope) -> str:
    """Who sent the request, to be counted by: an IPv4 address, or the /64 network of an IPv6 address."""
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> (128 - _IPV6_NETWORK_BITS) << (128 - _IPV6_NETWORK_BITS))}/64"
    return host


class RequestRates:
    """The buckets of requests: one for each user, and for whom is not known, one for each address."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._users = Rates(
            "requests", per_second_max=settings.requests_per_second_max, burst_max=settings.requests_burst_max
        )
        self._addresses = Rates(
            "requests",
            per_second_max=settings.anonymous_requests_per_second_max,
            burst_max=settings.anonymous_requests_burst_max,
        )
        self._read_cost = settings.read_request_cost

    def count_user(self, scope: Scope, user_id: str) -> None:
        """Count the request of `scope` as the user's; its answer tells the standing. Raises LimitExceededError."""
        standing = self._users.spend(user_id, self._cost(scope))
        answer_headers_of(scope).update(standing.headers)

    def count_address(self, scope: Scope) -> None:
        """Count the request of `scope` by its address, once. Raises LimitExceededError."""
        if _COUNTED not in scope["state"]:
            scope["state"][_COUNTED] = True
            self._addresses.spend(address_of(scope), self._cost(scope))

    def _cost(self, scope: Scope) -> float:
        return self._read_cost if scope["method"] in _READING else 1.0


class AddressRates:
    """Refuses who sends too many requests without a token that holds; whose token holds is counted by user elsewhere.

    A request with some credential is let through, so that nobody is kept out by others behind the same address, and is
    counted where the credential does not hold, or nobody asked for it. Probes of health are not counted.
    """

    def __init__(self, app: ASGIApp, rates: RequestRates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
        elif any(name in _CREDENTIALS for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            if "user" not in scope["state"]:
                with suppress(LimitExceededError):
                    self._rates.count_address(scope)
        else:
            try:
                self._rates.count_address(scope)
            except LimitExceededError as error:
                await render(scope, problem_of(error))(scope, receive, send)
            else:
                await self._app(scope, receive, send)
