"""The built page: its files, read once, each in the forms that browsers take."""

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

# Where the files are in a checkout; an installed gateway is told by a setting.
_CHECKOUT = Path(__file__).parents[3] / "web" / "dist"
_ENCODINGS = {"br": ".br", "gzip": ".gz"}  # the better one first
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".html": "text/html"}

UNCHANGED = 304
FOR_EVER = "public, max-age=31536000, immutable"
FOR_MINUTES = "public, max-age=300"
ASK_EACH_TIME = "no-cache"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, whole and compressed. Its tag stands for what is in it."""

    media_type: str
    tag: str
    content: bytes
    compressed: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, content: bytes, compressed: Mapping[str, bytes] | None = None) -> "Asset":
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(_media_type(name), f'"{digest}"', content, compressed or {})

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """In the best form that the request takes; 304 where the browser has it."""
        told = {"etag": self.tag, "vary": "accept-encoding", **headers}
        if self.tag in _listed(request.headers.get("if-none-match", "").replace("W/", "")):
            return Response(status_code=UNCHANGED, headers=told)
        accepted = _listed(request.headers.get("accept-encoding", ""))
        encoding = next((name for name in self.compressed if name in accepted), None)
        if encoding is None:
            return Response(self.content, media_type=self.media_type, headers=told)
        told["content-encoding"] = encoding
        return Response(self.compressed[encoding], media_type=self.media_type, headers=told)


@dataclass(frozen=True, slots=True)
class WebRoot:
    """The files by their path: `index.html`, `assets/page-….js`. None: the page is not built."""

    files: Mapping[str, Asset]

    @classmethod
    def read(cls, folder: Path | None) -> "WebRoot":
        """What is in `folder`; None: in the checkout's. Raises ValueError where a folder is named that has no page."""
        wanted = folder or _CHECKOUT
        if folder is not None and not (folder / "index.html").is_file():
            raise ValueError(f"GATEWAY_WEB_ROOT: there is no built page in {folder}")
        paths = sorted(path for path in wanted.rglob("*") if path.is_file() and path.suffix not in _ENCODINGS.values())
        return cls({path.relative_to(wanted).as_posix(): _read(path) for path in paths})


def _read(path: Path) -> Asset:
    twins = {encoding: path.with_name(path.name + suffix) for encoding, suffix in _ENCODINGS.items()}
    compressed = {encoding: twin.read_bytes() for encoding, twin in twins.items() if twin.is_file()}
    return Asset.of(path.name, path.read_bytes(), compressed)


def _media_type(name: str) -> str:
    guessed = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed == "image/svg+xml" else guessed


def _listed(header: str) -> set[str]:
    """The words of a list, but for those that are refused by `q=0`."""
    words = (part.partition(";") for part in header.split(","))
    return {word.strip().lower() for word, _, weight in words if weight.replace(" ", "") not in {"q=0", "q=0.0"}}
