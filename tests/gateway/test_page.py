"""How the built page is served: in which form, for how long, and under which policy."""

import gzip
from pathlib import Path

import pytest

from gateway.application import Application
from gateway.headers import SecurityHeaders
from gateway.problems import install_problems
from gateway.routes.page import page_router
from gateway.settings import GatewaySettings
from shared.settings import Profile
from tests.gateway.conftest import Caller, GatewayWith

SCRIPT = b"export const answer = 42;\n"
DOCUMENT = b'<!doctype html><meta name="parley-door" content="token" /><p>Parley</p>'


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A page as the build leaves it, but for a brotli copy that holds a mark of ours in place of the script."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("index.html", "embed.html"):
        (tmp_path / name).write_bytes(DOCUMENT)
    (assets / "page-1a2b.js").write_bytes(SCRIPT)
    (assets / "page-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT))
    (assets / "page-1a2b.js.br").write_bytes(b"as brotli")
    return tmp_path


def visitor_of(settings: GatewaySettings) -> Caller:
    """Somebody without a token, at the part of a gateway that serves the page."""
    app = Application()
    app.include_router(page_router(settings))
    install_problems(app)
    app.add_middleware(SecurityHeaders, is_https=False)
    return Caller(app, "nobody", None)


@pytest.fixture
def visitor(gateway_settings: GatewaySettings, built: Path) -> Caller:
    update = {"web_root": built, "frame_ancestors": frozenset({"https://shop.example"})}
    return visitor_of(gateway_settings.model_copy(update=update))


async def test_the_page_is_asked_for_each_time_and_sent_when_it_changed(visitor: Caller) -> None:
    first = await visitor.get("/")
    again = await visitor.get("/", headers={"if-none-match": first.headers["etag"]})

    assert first.status_code == 200
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in first.headers["content-security-policy"]
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


async def test_the_page_says_what_a_local_installation_offers_and_no_other_one(
    gateway_settings: GatewaySettings, built: Path
) -> None:
    said = {}
    for profile in Profile:
        settings = gateway_settings.model_copy(update={"web_root": built, "profile": profile})
        said[profile] = (await visitor_of(settings).get("/")).text

    assert 'name="parley-door" content="name"' in said.pop(Profile.LOCAL)
    assert said
    assert all('name="parley-door" content="token"' in text for text in said.values())


async def test_only_the_widget_stands_in_frames_of_listed_origins(visitor: Caller) -> None:
    page, widget = await visitor.get("/"), await visitor.get("/embed")

    assert page.headers["content-security-policy"].endswith("frame-ancestors 'none'")
    assert widget.headers["content-security-policy"].endswith("frame-ancestors https://shop.example")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("identity", None),
        ("", None),
    ],
)
async def test_files_come_in_the_smallest_form_that_is_taken_and_are_kept_for_ever(
    visitor: Caller, accepted: str, encoding: str | None
) -> None:
    async with visitor.stream("GET", "/assets/page-1a2b.js", headers={"accept-encoding": accepted}) as answer:
        content = b"".join([piece async for piece in answer.aiter_raw()])

    assert answer.headers.get("content-encoding") == encoding
    assert (gzip.decompress(content) if encoding == "gzip" else content) == (
        b"as brotli" if encoding == "br" else SCRIPT
    )
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_files_stay_as_they_are_on_their_way_through_the_whole_gateway(
    gateway_settings: GatewaySettings, gateway_with: GatewayWith, built: Path
) -> None:
    origins = frozenset({"https://shop.example"})
    app = gateway_with(gateway_settings.model_copy(update={"web_root": built, "allowed_origins": origins}))
    visitor = Caller(app, "nobody", None)
    headers = {"accept-encoding": "gzip", "origin": "https://shop.example"}

    first = await visitor.get("/assets/page-1a2b.js", headers=headers)
    again = await visitor.get("/assets/page-1a2b.js", headers={**headers, "if-none-match": first.headers["etag"]})

    for answer, status in ((first, 200), (again, 304)):
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert {name.strip().lower() for name in answer.headers["vary"].split(",")} == {"accept-encoding", "origin"}
        assert answer.headers["etag"] == first.headers["etag"]
        assert "set-cookie" not in answer.headers
    assert first.headers["content-encoding"] == "gzip"
    assert (first.content, again.content) == (SCRIPT, b"")


@pytest.mark.parametrize(
    "path", ["/assets/page-other.js", "/assets/", "/assets/../index.html", "/assets/%2e%2e/index.html", "/index.html"]
)
async def test_nothing_else_is_served(visitor: Caller, path: str) -> None:
    assert (await visitor.get(path)).status_code == 404


def test_a_folder_without_a_page_is_a_mistake_that_stops_the_start(
    gateway_settings: GatewaySettings, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="GATEWAY_WEB_ROOT"):
        page_router(gateway_settings.model_copy(update={"web_root": tmp_path}))


async def test_the_loader_is_for_pages_of_all_sites_and_asked_for_again_within_minutes(
    visitor: Caller, built: Path, gateway_settings: GatewaySettings
) -> None:
    absent = await visitor.get("/widget.js")
    (built / "widget.js").write_bytes(SCRIPT)
    visitor = visitor_of(gateway_settings.model_copy(update={"web_root": built}))
    first = await visitor.get("/widget.js")
    again = await visitor.get("/widget.js", headers={"if-none-match": first.headers["etag"]})
    assert absent.status_code == 404
    assert (first.status_code, first.content) == (200, SCRIPT)
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cross-origin-resource-policy"] == "cross-origin"
    assert first.headers["cache-control"] == "public, max-age=300"
    assert again.status_code == 304
