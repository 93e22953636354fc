# ruff: noqa: INP001 - a program, no part of a package
"""A shop that shows the widget: another site than Parley's, with a sign-in and a token endpoint of its own.

Run it beside a local stack: `uv run --env-file .env python web/demo/host.py`. The gateway has to allow its origin:
GATEWAY_FRAME_ANCESTORS=["http://localhost:8090"]. The query of its address becomes attributes of the script:
http://localhost:8090/?theme=dark&accent=%230a7d5a&language=de&position=left
"""

import argparse
import html
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import jwt

_FOLDER = Path(__file__).parent
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
_TOKEN_SECONDS = 600


class Shop(BaseHTTPRequestHandler):
    """One request. The visitor is always the same; a real shop would look at its session."""

    parley = "http://127.0.0.1:8080"
    visitor = "visitor-1042"
    secret = ""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        name = {"/shop.css": "shop.css", "/shop.js": "shop.js", "/hostile.css": "hostile.css"}.get(address.path)
        if name is not None:
            self._answer((_FOLDER / name).read_bytes(), _TYPES[Path(name).suffix])
            return
        page = (_FOLDER / "index.html").read_text()
        self._answer(self._filled(page, dict(parse_qsl(address.query))).encode(), _TYPES[".html"])

    def do_POST(self) -> None:
        """The token endpoint: a short-lived token for whoever is signed in here."""
        now = int(time.time())
        claims = {"iss": "parley", "aud": "parley", "sub": self.visitor, "iat": now, "exp": now + _TOKEN_SECONDS}
        token = jwt.encode(claims, self.secret, "HS256")
        self._answer(json.dumps({"token": token}).encode(), "application/json")

    def log_message(self, *_: object) -> None:
        """Say nothing: every page of a test would be a line."""

    def _filled(self, page: str, query: dict[str, str]) -> str:
        style = '<link rel="stylesheet" href="/hostile.css">' if query.pop("hostile", None) else ""
        attributes = "".join(f' data-{html.escape(name)}="{html.escape(value)}"' for name, value in query.items())
        return page.replace("{{parley}}", self.parley).replace("{{attributes}}", attributes).replace("{{style}}", style)

    def _answer(self, body: bytes, media_type: str) -> None:
        # A strict host: the widget needs no more than these two words about our origin.
        own = "default-src 'none'; style-src 'self'; connect-src 'self'; img-src data:"
        ours = f"script-src 'self' {self.parley}; frame-src {self.parley}"
        policy = f"{own}; {ours}; require-trusted-types-for 'script'"
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", policy)
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--parley", default=Shop.parley, help="where the gateway is")
    arguments = parser.parse_args()
    Shop.parley = arguments.parley
    Shop.secret = os.environ["JWT_SECRET"]
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Shop).serve_forever()


if __name__ == "__main__":
    main()
