"""What every answer tells a browser, and which pages of other origins may ask."""

import re

import httpx2
import pytest
from starlette.responses import PlainTextResponse

from gateway.headers import PAGE_HEADERS, SecurityHeaders, widget_headers
from gateway.settings import GatewaySettings
from tests.gateway.conftest import Caller, GatewayWith

SHOP = "https://shop.example"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health/live"),
        ("GET", "/v1/models"),
        ("GET", "/v1/conversations/conv_unknown"),
        ("PUT", "/api/conversations"),
        ("GET", "/nowhere"),
        ("GET", "/openapi.json"),
    ],
)
async def test_every_answer_tells_browsers_to_keep_their_hands_off(ada: Caller, method: str, path: str) -> None:
    headers = (await ada.request(method, path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert "strict-transport-security" not in headers  # nothing says that it is reached by https


async def test_what_belongs_to_a_user_is_stored_by_no_cache(ada: Caller) -> None:
    for path in ("/v1/models", "/api/conversations", "/api/nowhere"):
        assert (await ada.get(path)).headers["cache-control"] == "no-store"


async def test_with_a_public_address_in_https_browsers_use_nothing_else(
    gateway_settings: GatewaySettings, gateway_with: GatewayWith
) -> None:
    settings = gateway_settings.model_copy(update={"public_url": "https://chat.example"})
    app = gateway_with(settings)
    answer = await Caller(app, "nobody", None).get("/health/live")

    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def through(headers: dict[str, str]) -> httpx2.Headers:
    """The headers of an answer that brings `headers`, as browsers get it."""
    app = SecurityHeaders(PlainTextResponse("", headers=headers), is_https=False)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
        return (await client.get("/")).headers


async def test_our_page_runs_our_own_files_and_stands_in_no_frame() -> None:
    headers = await through(dict(PAGE_HEADERS))

    policy = headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert policy.endswith("frame-ancestors 'none'")
    assert headers["x-frame-options"] == "DENY"


async def test_the_widget_stands_in_frames_of_listed_origins_only() -> None:
    listed, unlisted = await through(widget_headers([SHOP])), await through(widget_headers([]))

    assert listed["content-security-policy"].endswith(f"frame-ancestors {SHOP}")
    assert "x-frame-options" not in listed  # it could not name the origin
    assert unlisted["content-security-policy"].endswith("frame-ancestors 'none'")


async def test_the_documentation_runs_the_scripts_that_it_consists_of_and_no_other(ada: Caller) -> None:
    answer = await ada.get("/docs")

    policy = answer.headers["content-security-policy"]
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts is not None
    assert re.fullmatch(r"https://cdn\.jsdelivr\.net/npm/swagger-ui-dist@5/ 'sha256-[A-Za-z0-9+/=]{44}'", scripts[1])
    assert answer.text.count("<script") == 2
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_pages_of_other_origins_may_not_ask(ada: Caller, method: str) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST", "cookie": "a=b"}

    answer = await ada.request(method, "/v1/models", headers=headers)

    assert not [
        name for name in answer.headers if name in ("access-control-allow-origin", "access-control-allow-credentials")
    ]
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin", ["https://shop.example.evil.example", "http://shop.example", "null", "https://SHOP.example"]
)
async def test_an_origin_is_listed_exactly_or_not_at_all(
    gateway_settings: GatewaySettings, gateway_with: GatewayWith, origin: str
) -> None:
    settings = gateway_settings.model_copy(update={"allowed_origins": frozenset({SHOP})})
    app = gateway_with(settings)
    answer = await Caller(app, "nobody", None).get("/v1/models", headers={"origin": origin})

    assert "access-control-allow-origin" not in answer.headers


async def test_pages_of_a_listed_origin_may_ask_by_token_and_never_by_cookie(
    gateway_settings: GatewaySettings, gateway_with: GatewayWith
) -> None:
    settings = gateway_settings.model_copy(update={"allowed_origins": frozenset({SHOP})})
    app = gateway_with(settings)
    page = Caller(app, "nobody", None)
    preflight = await page.options(
        "/v1/responses",
        headers={
            "origin": SHOP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang,idempotency-key",
        },
    )
    refused = await page.get("/v1/conversations", headers={"origin": SHOP})

    assert preflight.status_code == httpx2.codes.OK
    assert int(preflight.headers["access-control-max-age"]) > 0
    for answer in (preflight, refused):
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
    exposed = refused.headers["access-control-expose-headers"]
    assert {"x-request-id", "retry-after", "location"} <= set(exposed.split(", "))


@pytest.mark.parametrize(
    "origin", ["https://shop.example/", "*", "shop.example", "https://a b", "https://a;script-src *"]
)
@pytest.mark.parametrize("name", ["allowed_origins", "frame_ancestors"])
def test_what_is_no_origin_is_refused_at_the_start(gateway_settings: GatewaySettings, name: str, origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        GatewaySettings(**{**gateway_settings.model_dump(), name: [origin]})
