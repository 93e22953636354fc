"""What every answer tells a browser: what it may do with it, and who may frame it.

Answers get the headers of the interface, which allow nothing, unless they bring their own: a page brings
`PAGE_HEADERS` or `widget_headers(…)`.
"""

from collections.abc import Iterable, Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CSP = "content-security-policy"
_FRAMES = "x-frame-options"
_NOT_STORED = (b"cache-control", b"no-store")
_HSTS_SECONDS = 365 * 86_400
_FEATURES = ("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "microphone", "payment", "usb")
_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors "
)

# Of every answer that does not say otherwise.
API_HEADERS: Mapping[str, str] = {
    _CSP: "default-src 'none'; frame-ancestors 'none'",
    _FRAMES: "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": ", ".join(f"{feature}=()" for feature in _FEATURES),
}
# Of our page: scripts and styles are files of ours, none is within the page.
PAGE_HEADERS: Mapping[str, str] = {_CSP: f"{_PAGE_CSP}'none'"}


def widget_headers(frame_ancestors: Iterable[str]) -> dict[str, str]:
    """Of the page within a frame on other sites: as our page, in frames of the origins `frame_ancestors`.

    `X-Frame-Options` cannot name them, so that it is empty, which stands for none.
    """
    return {_CSP: _PAGE_CSP + (" ".join(sorted(frame_ancestors)) or "'none'"), _FRAMES: ""}


class SecurityHeaders:
    """Gives each answer the headers above, and those of users' data `no-store`. An empty one is left out."""

    def __init__(self, app: ASGIApp, *, is_https: bool) -> None:
        """`is_https` where browsers reach us so: then they are told to come in no other way."""
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in API_HEADERS.items()]
        if is_https:
            self._headers.append((b"strict-transport-security", b"max-age=%d" % _HSTS_SECONDS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._completed(message["headers"], scope["path"])
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _completed(self, own: Sequence[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in own}
        headers = [header for header in own if header[1]]
        headers += [header for header in self._headers if header[0] not in names]
        if path.startswith(("/v1", "/api")) and b"cache-control" not in names:
            headers.append(_NOT_STORED)
        return headers
