"""Whatever a request says where it may say little: it is taken, or refused by name, and never an error of ours."""

import json
import re
import string
from collections.abc import Mapping
from contextlib import suppress

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.limits import JsonLimits, decode_json
from shared.errors import InvalidInputError, NotAuthenticatedError
from shared.ids import Prefix, from_wire, new_wire_id, to_wire, uuid7
from shared.tokens import Rules, bearer_token, secret_keys, verify_token
from tests.attacks.effort import effort
from tests.gateway.conftest import Caller
from tests.support.stack import JWT_SECRET, token_of

_TOKEN = token_of("ada")
_RULES = Rules(issuer="parley", audience="parley")
_TEXTS = st.text(max_size=300)
_BYTES = st.binary(max_size=300)
_NUMBERS = st.one_of(
    _TEXTS,
    st.integers().map(str),
    st.floats().map(str),
    st.text(string.digits + "+-._ eE٣²", max_size=30),
    st.sampled_from(["9" * 10_000, "0x10", "1_000", " 7", "7 ", "1\r\nset-cookie: a=b", "\0", "null", "true"]),
)
_IDS = st.one_of(
    _TEXTS,
    st.builds("{}_{}".format, st.sampled_from(Prefix), st.text("0123456789abcdefABCDEF-٣", min_size=30, max_size=34)),
)


def edited(text: str) -> st.SearchStrategy[str]:
    """`text` with a part of it replaced."""
    return st.builds(
        lambda start, length, new: text[:start] + new + text[start + length :],
        st.integers(0, len(text)),
        st.integers(0, 5),
        st.text(max_size=5),
    )


async def asked(
    gateway: FastAPI, method: str, path: str, *, user: str = "fuzzed", **more: object
) -> tuple[httpx2.Response, str]:
    """The answer to a user, and the code of the error in it."""
    async with Caller(gateway, user, token_of(user)) as caller:
        answer = await caller.request(method, path, **more)  # type: ignore[arg-type]
    assert answer.status_code < 500, (answer.status_code, answer.text)
    error = answer.json()["error"] if answer.is_client_error else {}
    return answer, error.get("code") or error.get("error_code") or ""


# --- in an address


@effort
@given(after=_NUMBERS)
async def test_a_stream_begins_behind_a_number_or_not_at_all(gateway: FastAPI, after: str) -> None:
    path = f"/v1/responses/{new_wire_id(Prefix.RESPONSE)}"

    answer, _ = await asked(gateway, "GET", path, params={"stream": "true", "starting_after": after})

    assert answer.status_code == (404 if _is_number(after, 2**31 - 1) else 400)


def _is_number(text: str, at_most: int) -> bool:
    """As the wire takes it: digits of ASCII, which may have blanks around them and underscores or a zero after them."""
    digits = text.strip().removeprefix("+").replace("_", "").rstrip("0").removesuffix(".")
    try:
        is_whole = 0 <= float(text) <= at_most and float(text).is_integer()
        return is_whole and digits.isascii() and len(digits) < 4_300
    except ValueError:
        return False


@effort
@given(limit=_NUMBERS, offset=_NUMBERS)
async def test_a_page_has_a_length_and_a_beginning_or_is_refused(gateway: FastAPI, limit: str, offset: str) -> None:
    answer, _ = await asked(gateway, "GET", "/api/conversations", params={"limit": limit, "offset": offset})

    assert answer.status_code in {200, 400}


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/files", "/v1/webhook_endpoints"])
@effort
@given(after=_IDS, order=st.one_of(_TEXTS, st.sampled_from(["asc", "desc"])))
async def test_a_list_goes_on_behind_what_there_is_and_nothing_else(
    gateway: FastAPI, path: str, after: str, order: str
) -> None:
    answer, _ = await asked(gateway, "GET", path, params={"after": after, "order": order})

    assert answer.status_code in {200, 400, 404}
    assert answer.status_code != 200 or answer.json()["data"] == []


@effort
@given(text=_IDS, prefix=st.sampled_from(Prefix))
def test_an_id_has_one_spelling(text: str, prefix: Prefix) -> None:
    with suppress(InvalidInputError):
        assert to_wire(prefix, from_wire(prefix, text)) == text


# --- in a body

_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=()))),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())


@effort
@given(body=st.one_of(_BYTES, _JSON, _JSON.flatmap(lambda text: edited(text.decode()).map(lambda said: said.encode()))))
@example(body=b"[" * 10_000)
@example(body=b'{"a":1e400}')
@example(body=b'"\\ud800"')
@example(body=b'{"a":' + b"9" * 5_000 + b"}")
def test_a_body_is_json_that_can_be_stored_or_is_refused(body: bytes) -> None:
    try:
        value = decode_json(body, JsonLimits(depth_max=64, values_max=150_000))
    except InvalidInputError:
        return
    stored = json.dumps(value, allow_nan=False, ensure_ascii=False)
    stored.encode()
    assert "\\u0000" not in stored.replace("\\\\", "")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/api/chat", "/v1/chat/completions"])
@effort
@given(body=_JSON)
async def test_any_json_is_a_request_or_is_refused(gateway: FastAPI, path: str, body: bytes) -> None:
    answer, code = await asked(
        gateway, "POST", path, content=body, headers={"content-type": "application/json"}, user=f"u-{uuid7().hex}"
    )

    assert answer.status_code in {200, 400}
    assert answer.status_code == 200 or code


# --- in a header


@effort
@given(key=st.one_of(_BYTES, st.text(string.printable, max_size=300).map(str.encode)))
async def test_an_idempotency_key_is_printable_or_refused(gateway: FastAPI, key: bytes) -> None:
    user = f"u-{uuid7().hex}"
    request = {"model": "chat", "input": "x", "background": True}

    answer, _ = await asked(
        gateway, "POST", "/v1/responses", user=user, json=request, headers=[(b"idempotency-key", key)]
    )

    is_key = 1 <= len(key) <= 255 and all(0x20 <= byte < 0x7F for byte in key)
    assert answer.status_code == (200 if is_key else 400)


@effort
@given(text=st.one_of(_TEXTS, edited(_TOKEN)))
def test_a_token_holds_as_it_was_made_and_in_no_other_form(text: str) -> None:
    with suppress(NotAuthenticatedError):
        identity = verify_token(text, secret_keys(JWT_SECRET), _RULES)
        assert (identity.user_id, text) == ("ada", _TOKEN)


@effort
@given(headers=st.lists(st.one_of(_TEXTS, edited(f"Bearer {_TOKEN}")), max_size=3))
def test_a_credential_is_one_bearer_token_or_none(headers: list[str]) -> None:
    with suppress(NotAuthenticatedError):
        assert bearer_token(headers)
        assert len(headers) == 1


@effort
@given(
    headers=st.dictionaries(
        st.sampled_from(["cookie", "origin", "x-csrf-token", "sec-fetch-site", "host"]), _BYTES, min_size=1
    )
)
async def test_no_cookie_and_no_word_that_was_made_up_opens_anything(
    gateway: FastAPI, headers: Mapping[str, bytes]
) -> None:
    said = [
        (name.encode(), b"parley_session=" + value if name == "cookie" else value) for name, value in headers.items()
    ]
    async with Caller(gateway, "nobody", None) as caller:
        answer = await caller.post("/v1/conversations", json={}, headers=said)

    assert answer.status_code == 401


@effort
@given(data=st.data())
async def test_a_cookie_and_its_word_hold_as_they_were_made_and_in_no_other_form(
    gateway: FastAPI, data: st.DataObject
) -> None:
    async with Caller(gateway, "nobody", None) as caller:
        begun = await caller.post("/session", headers={"authorization": f"Bearer {_TOKEN}"})
        cookie, word = begun.cookies["parley_session"], begun.json()["csrf_token"]
        caller.cookies.clear()
        said = {
            b"cookie": data.draw(st.one_of(st.just(cookie), edited(cookie))).encode(),
            b"x-csrf-token": data.draw(st.one_of(st.just(word), edited(word))).encode(),
        }
        given_cookie = b"parley_session=" + said.pop(b"cookie")
        headers = [(b"cookie", given_cookie), (b"origin", b"http://gateway"), *said.items()]
        answer = await caller.post("/v1/conversations", json={}, headers=headers)

    holds = given_cookie.decode().partition("=")[2].split(";")[0].strip() == cookie
    is_whole = holds and said[b"x-csrf-token"] == word.encode()
    assert answer.status_code in ({200} if is_whole else {401, 403})


@effort
@given(header=st.tuples(st.sampled_from([b"range", b"if-none-match", b"accept", b"prefer", b"x-request-id"]), _BYTES))
async def test_what_a_header_asks_for_beside_that_is_taken_or_left(
    gateway: FastAPI, header: tuple[bytes, bytes]
) -> None:
    answer, _ = await asked(gateway, "GET", "/v1/models", headers=[header])

    assert answer.status_code == 200
    assert re.fullmatch(r"[\w.:-]{1,128}", answer.headers["x-request-id"], re.ASCII)
