"""Sessions of the web page: a token, exchanged for a cookie that no script can read.

The cookie holds a token of our own. It ends with the token that it was made of, names it, so that it falls with it, and
is good for nothing but this cookie. As browsers send cookies by themselves, also for other sites' pages, a request that
changes something must come from an origin that we know, and bring a word that only our page can have read.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from gateway.settings import GatewaySettings
from shared.errors import PermissionDeniedError
from shared.settings import Profile
from shared.tokens import Key, Rules, identity_of, mint_token, secret_keys, verified_claims

_CSRF_HEADER = "x-csrf-token"
_NAME = "parley_session"
_SECURE_NAME = "__Host-parley_session"  # browsers take it only with Secure, for this host alone, from this host alone
_ISSUER = "parley-session"
_TOKEN_IDS_CLAIM = "tok"  # noqa: S105 - a name
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Session:
    """Whom a session is of, until when. `token_ids` are its own id and then those of what it was made of."""

    user_id: str
    expires_at: float
    roles: frozenset[str]
    token_ids: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.token_ids[0]


class Sessions:
    """Makes, reads and ends sessions. Nothing is stored: what a gateway has sealed, all can open."""

    def __init__(self, settings: GatewaySettings) -> None:
        secrets = [secret.get_secret_value() for secret in settings.session_secrets]
        self._seals = [_derived(secret, "session") for secret in secrets]
        self._csrf_secrets = [_derived(secret, "csrf") for secret in secrets]
        self._keys: Sequence[Key] = secret_keys(self._seals[0], self._seals[1:])
        self._rules = Rules(
            issuer=_ISSUER,
            audience=_ISSUER,
            lifetime_seconds_max=settings.session_seconds_max,
            leeway_seconds=settings.jwt_leeway_seconds,
        )
        self._same_site: Literal["lax", "strict"] = settings.session_same_site.value
        self._origins = settings.allowed_origins
        self._own_origin = _origin_of(settings.public_url) if settings.public_url else None
        self._is_secure = settings.profile is not Profile.LOCAL or (self._own_origin or "").startswith("https:")

    @property
    def cookie_name(self) -> str:
        return _SECURE_NAME if self._is_secure else _NAME

    def begin(
        self,
        response: Response,
        *,
        user_id: str,
        expires_at: float = float("inf"),
        roles: Collection[str] = (),
        token_ids: Sequence[str] = (),
    ) -> Session:
        """Give the browser a session, which ends at `expires_at` at the latest. A denial of `token_ids` ends it too."""
        seconds_left = max(0.0, min(expires_at - time.time(), self._rules.lifetime_seconds_max))
        claims = {"jti": uuid4().hex, "roles": sorted(roles), _TOKEN_IDS_CLAIM: list(token_ids)}
        sealed = mint_token(
            self._seals[0], user_id, issuer=_ISSUER, audience=_ISSUER, lifetime_seconds=seconds_left, **claims
        )
        response.set_cookie(
            self.cookie_name,
            sealed,
            max_age=int(seconds_left),
            secure=self._is_secure,
            httponly=True,
            samesite=self._same_site,
        )
        return self._opened(sealed)

    def end(self, response: Response) -> None:
        """Have the browser forget its session. (Whoever copied the cookie is shut out by a denial.)"""
        response.delete_cookie(self.cookie_name, secure=self._is_secure, httponly=True, samesite=self._same_site)

    def of(self, request: Request) -> Session | None:
        """The session that the request shows; null where it shows none.

        Raises TokenRefusedError where it does not hold; PermissionDeniedError (`origin_not_allowed`,
        `csrf_token_invalid`) where the request would change something and may come from another site's page.
        """
        sealed = request.cookies.get(self.cookie_name)
        if not sealed:
            return None
        session = self._opened(sealed)
        if request.method not in _SAFE_METHODS:
            self.check_origin(request, is_browser=True)
            self._check_csrf(request, session.id)
        return session

    def _opened(self, sealed: str) -> Session:
        claims = verified_claims(sealed, self._keys, self._rules)
        identity = identity_of(sealed, claims, self._rules)
        token_ids = (identity.token_id, *claims[_TOKEN_IDS_CLAIM])
        return Session(identity.user_id, identity.expires_at, identity.roles, token_ids)

    def csrf_token(self, session_id: str) -> str:
        """What a request of this session that changes something says in `X-CSRF-Token`."""
        return _csrf_token(self._csrf_secrets[0], session_id)

    def check_origin(self, request: Request, *, is_browser: bool) -> None:
        """Raises PermissionDeniedError (`origin_not_allowed`) for a request of a page that is neither ours nor listed.

        Browsers name the origin, or say at least that it is ours; a program that is none need not.
        """
        origins = request.headers.getlist("origin")
        if origins:
            is_allowed = len(origins) == 1 and self._is_known(origins[0], request)
        else:
            site = request.headers.get("sec-fetch-site")
            is_allowed = site == "same-origin" or (site is None and not is_browser)
        if not is_allowed:
            raise PermissionDeniedError("origin_not_allowed", "Requests from this page's origin are not allowed.")

    def check_host(self, request: Request) -> None:
        """Raises PermissionDeniedError (`origin_not_allowed`) where the request came by a name that may be anybody's.

        Who owns a name can have it lead to this machine once their page is open, which is then of our origin. Nobody
        owns an address, nor a name without a dot.
        """
        try:
            name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            name = ""
        ours = {urlsplit(origin).hostname for origin in (*self._origins, self._own_origin or "")}
        if not (_is_address(name) or name in ours or (name and "." not in name) or name.endswith(".localhost")):
            message = "By this name nobody logs in so, unless it is that of GATEWAY_PUBLIC_URL."
            raise PermissionDeniedError("origin_not_allowed", message)

    def _is_known(self, origin: str, request: Request) -> bool:
        if origin in self._origins:
            return True
        if self._own_origin is not None:
            return origin == self._own_origin
        # A proxy in front may have taken the TLS off: what the browser calls https came as http.
        return origin.partition("://")[2] == request.headers.get("host")

    def _check_csrf(self, request: Request, session_id: str) -> None:
        said = request.headers.get(_CSRF_HEADER, "").encode()
        if not any(
            hmac.compare_digest(said, _csrf_token(secret, session_id).encode()) for secret in self._csrf_secrets
        ):
            message = "With the session's cookie, 'X-CSRF-Token' is needed: what GET /session says as 'csrf_token'."
            raise PermissionDeniedError("csrf_token_invalid", message)


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _derived(secret: str, purpose: str) -> str:
    """A secret for one purpose: what is signed for another is worth nothing for it."""
    return hmac.new(secret.encode(), f"parley {purpose}".encode(), hashlib.sha256).hexdigest()


def _csrf_token(secret: str, session_id: str) -> str:
    digest: Any = hmac.new(secret.encode(), session_id.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
