"""Passwords and keys of the local stack: made once, kept in a file that only its owner reads; and user tokens."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

ROLES = ("parley_gateway", "parley_worker", "parley_persistence", "parley_tools")
NAMES = ("JWT_SECRET", "TOOL_TOKEN_SECRET", "postgres", "rabbitmq", *ROLES)
_TOKEN_SECONDS = 24 * 3600


def kept(path: Path) -> dict[str, str]:
    """The secret of every name in NAMES, from the file `path`; made at the first call, the same ever after."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(made(), indent=2) + "\n")
        with contextlib.suppress(FileExistsError):  # another ./dev was first: its secrets count
            os.link(draft, path)
        draft.unlink()
    return dict(json.loads(path.read_text()))


def made() -> dict[str, str]:
    """A new secret for every name in NAMES, safe in a URL."""
    return {name: secrets.token_urlsafe(32) for name in NAMES}


def role_password(role: str, database_url: str) -> str:
    """The password of a service's role on a given server: who knows its owner's URL gets the same from any checkout."""
    return hmac.new(database_url.encode(), role.encode(), hashlib.sha256).hexdigest()


def user_token(user: str, settings: Mapping[str, str]) -> str:
    """A token with which `user` may call the gateway for a day, signed with the stack's JWT_SECRET."""
    now = int(time.time())
    claims = {
        "iss": settings.get("JWT_ISSUER", "parley"),
        "aud": settings.get("JWT_AUDIENCE", "parley"),
        "sub": user,
        "iat": now,
        "exp": now + _TOKEN_SECONDS,
    }
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    signature = hmac.new(settings["JWT_SECRET"].encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64url(signature)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
