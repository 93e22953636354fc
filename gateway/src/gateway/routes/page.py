"""The page and its widget: what `web/` was built into, and a hint where it was not."""

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.assets import ASK_EACH_TIME, FOR_EVER, FOR_MINUTES, Asset, WebRoot
from gateway.headers import PAGE_HEADERS, widget_headers
from gateway.settings import GatewaySettings
from shared.settings import Profile

_NOT_BUILT = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Parley</title>
<h1>Parley runs; its page is not built</h1>
<p>Build it with <code>./dev up</code>, which needs Node.js or a network to get it, or with
<code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>; then start the gateway again.</p>
<p>The API is there: see <code>docs/api.md</code>.</p>
</html>
"""
# Pages of other sites load it, under one name for ever.
_LOADER_HEADERS = {"cache-control": FOR_MINUTES, "cross-origin-resource-policy": "cross-origin"}
# The page asks what a local installation offers by this mark: it is in no other one.
_DOOR, _LOCAL_DOOR = b'<meta name="parley-door" content="token"', b'<meta name="parley-door" content="name"'


def page_router(settings: GatewaySettings) -> APIRouter:
    """Routes of `/`, `/embed`, `/widget.js` and `/assets/…`, with the files as they are now.

    Raises ValueError as `WebRoot.read`.
    """
    files = WebRoot.read(settings.web_root).files
    is_local = settings.profile is Profile.LOCAL
    page, embedded = (_document(files.get(name), is_local=is_local) for name in ("index.html", "embed.html"))
    page_headers = {**PAGE_HEADERS, "cache-control": ASK_EACH_TIME}
    embedded_headers = {**widget_headers(settings.frame_ancestors), "cache-control": ASK_EACH_TIME}
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def read_page(request: Request) -> Response:
        return page.answer(request, page_headers)

    @router.api_route("/embed", methods=["GET", "HEAD"])
    async def read_embedded(request: Request) -> Response:
        return embedded.answer(request, embedded_headers)

    @router.api_route("/widget.js", methods=["GET", "HEAD"])
    async def read_loader(request: Request) -> Response:
        loader = files.get("widget.js")
        if loader is None:
            raise HTTPException(404)
        return loader.answer(request, _LOADER_HEADERS)

    @router.api_route("/assets/{name:path}", methods=["GET", "HEAD"])
    async def read_asset(request: Request, name: str) -> Response:
        asset = files.get(f"assets/{name}")
        if asset is None:
            raise HTTPException(404)
        return asset.answer(request, {"cache-control": FOR_EVER})  # its name holds a hash of what is in it

    return router


def _document(built: Asset | None, *, is_local: bool) -> Asset:
    if built is None:
        return Asset.of("hint.html", _NOT_BUILT)
    if not is_local:
        return built
    return Asset.of("index.html", built.content.replace(_DOOR, _LOCAL_DOOR))
