"""The public keys of an identity provider, from its JWKS: fetched in the background, known when a request needs them.

A provider that is away, slow or talks nonsense costs nobody anything: the keys that were fetched last count, until they
are too old. A token by an unknown key, which anybody can make, asks the provider at most once in a while.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import httpx2
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway import metrics
from gateway.settings import GatewaySettings
from shared.errors import UnavailableError
from shared.observability import get_logger
from shared.supervision import supervised
from shared.tls import trusting
from shared.tokens import Head, Key, Reason, TokenRefusedError

log = get_logger()

# The kind of key that each algorithm needs: `kty`, and `crv` where there are several.
_KINDS: Mapping[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
}
_RSA_BITS_MIN, _RSA_BITS_MAX = 2_048, 8_192
_KEY_ID_CHARS_MAX = 255
_FIRST_RETRY_SECONDS = 1.0

_KeySet = Mapping[tuple[str, str | None], Sequence[Key]]  # by algorithm and key id; under no id all of the algorithm


class _UnusableAnswerError(Exception):
    """What the provider answered is no set of keys."""


class _Jwks(msgspec.Struct):
    keys: list[Any]


class ProviderKeys:
    """The keys at one JWKS URL. One per process: `start` it, `stop` it at the end."""

    def __init__(self, settings: GatewaySettings, clock: Callable[[], float] = time.monotonic) -> None:
        assert settings.jwt_jwks_url is not None
        self.algorithms = settings.jwt_jwks_algorithms
        self._url = settings.jwt_jwks_url
        self._settings = settings
        self._clock = clock
        self._keys: _KeySet = {}
        self._fetched_at: float | None = None
        self._asked_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=settings.jwt_jwks_seconds_max,
            headers={"accept": "application/json", "accept-encoding": "identity"},
            verify=trusting(settings.tls_ca_file),
        )

    def start(self) -> None:
        self._task = supervised(self._run(), "keys")

    async def stop(self) -> None:
        tasks = [task for task in (self._task, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def of(self, head: Head) -> Sequence[Key]:
        """The keys that may have signed a token with this head, for its algorithm.

        Raises TokenRefusedError where the provider has none; UnavailableError (`keys_unavailable`) where no keys are
        known that are fresh enough.
        """
        found = self._find(head)
        if not found and (
            self._is_refreshing or self._clock() - self._asked_at >= self._settings.jwt_jwks_pause_seconds
        ):
            await self._refresh()
            found = self._find(head)
        if self._fetched_at is None or self._clock() - self._fetched_at > self._settings.jwt_jwks_stale_seconds_max:
            message = "The keys of the identity provider cannot be had; please try again."
            raise UnavailableError("keys_unavailable", message)
        if not found:
            raise TokenRefusedError(Reason.UNKNOWN_KEY)
        return found

    def _find(self, head: Head) -> Sequence[Key]:
        """A token without a key id needs no choice: the provider has one key for its algorithm."""
        if head.key_id is not None:
            return self._keys.get((head.algorithm, head.key_id), ())
        found = self._keys.get((head.algorithm, None), ())
        return found if len(found) == 1 else ()

    @property
    def _is_refreshing(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    async def _run(self) -> None:
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            asked_at = self._clock()
            await self._refresh()
            if self._fetched_at is not None and self._fetched_at >= asked_at:
                await asyncio.sleep(self._settings.jwt_jwks_refresh_seconds)
            elif self._fetched_at is not None:
                await asyncio.sleep(self._settings.jwt_jwks_pause_seconds)
            else:
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(retry_seconds * 2, self._settings.jwt_jwks_pause_seconds)

    async def _refresh(self) -> None:
        """One request for all who want it at the same time; none of them can break it off."""
        if not self._is_refreshing:
            self._asked_at = self._clock()
            self._refreshing = asyncio.create_task(self._fetch())
        assert self._refreshing is not None
        await asyncio.shield(self._refreshing)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._settings.jwt_jwks_seconds_max):
                body = await self._ask()
            keys = _parsed(body, self.algorithms, self._settings.jwt_jwks_keys_max)
        except (httpx2.HTTPError, TimeoutError, OSError, _UnusableAnswerError) as error:
            metrics.KEY_REFRESHES.labels("failed").inc()
            log.warning("keys_not_refreshed", cause=str(error) or type(error).__name__)
            return
        metrics.KEY_REFRESHES.labels("refreshed").inc()
        if keys.keys() != self._keys.keys():
            log.info("keys_changed", key_ids=sorted({key_id for _, key_id in keys if key_id is not None}))
        self._keys = keys
        self._fetched_at = self._clock()

    async def _ask(self) -> bytes:
        body = bytearray()
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != HTTPStatus.OK:
                raise _UnusableAnswerError(f"status {response.status_code}")
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self._settings.jwt_jwks_bytes_max:
                    raise _UnusableAnswerError("too large")
        return bytes(body)


def _parsed(body: bytes, algorithms: frozenset[str], count_max: int) -> _KeySet:
    """The keys in a JWKS that can verify for us. Others are left out, as are those behind the first `count_max`.

    Raises _UnusableAnswerError where there is none.
    """
    try:
        entries = msgspec.json.decode(body, type=_Jwks).keys
    except (ValueError, RecursionError) as error:
        raise _UnusableAnswerError("no JWKS") from error
    found: defaultdict[tuple[str, str | None], list[Key]] = defaultdict(list)
    for entry in entries[:count_max]:
        for algorithm in sorted(algorithms):
            key = _usable(entry, algorithm)
            if key is None:
                continue
            found[algorithm, None].append(key)
            if entry.get("kid") is not None and not found[algorithm, entry["kid"]]:
                found[algorithm, entry["kid"]].append(key)
    if not found:
        raise _UnusableAnswerError("no key that can be used")
    return dict(found)


def _usable(entry: Any, algorithm: str) -> Key | None:
    """The entry of a JWKS as a key for `algorithm`; null where it is none, or not for verifying."""
    if not isinstance(entry, dict) or not _is_for(entry, algorithm):
        return None
    try:
        material = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError):
        return None
    if isinstance(material, RSAPublicKey) and not _RSA_BITS_MIN <= material.key_size <= _RSA_BITS_MAX:
        return None
    return Key(algorithm, material)


def _is_for(entry: dict[str, Any], algorithm: str) -> bool:
    kind, curve = _KINDS[algorithm]
    key_id, operations = entry.get("kid"), entry.get("key_ops", ["verify"])
    return (
        entry.get("kty") == kind
        and (curve is None or entry.get("crv") == curve)
        and entry.get("alg", algorithm) == algorithm
        and entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and (key_id is None or (isinstance(key_id, str) and len(key_id) <= _KEY_ID_CHARS_MAX))
        and "d" not in entry  # a private key that got out
    )
