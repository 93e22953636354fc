"""Secrets of the local stack, and the tokens signed with them."""

import stat
from pathlib import Path

import jwt

from deploy.local import credentials


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "local" / "secrets.json"

    first = credentials.kept(file)

    assert credentials.kept(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(set(first.values())) == len(credentials.NAMES)
    assert min(len(secret) for secret in first.values()) >= 32
    assert list(file.parent.iterdir()) == [file]


def test_a_token_is_the_users_for_a_day() -> None:
    secret = "s" * 32

    token = credentials.user_token("ann", {"JWT_SECRET": secret})

    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="parley", issuer="parley")
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 24 * 3600


def test_a_token_names_the_issuer_and_audience_that_are_set() -> None:
    settings = {"JWT_SECRET": "s" * 32, "JWT_ISSUER": "https://login.example", "JWT_AUDIENCE": "chat"}

    token = credentials.user_token("ann", settings)

    jwt.decode(token, "s" * 32, algorithms=["HS256"], audience="chat", issuer="https://login.example")
