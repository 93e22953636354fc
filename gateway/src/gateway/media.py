"""What the bytes of a file are, judged by the bytes: images (with their size in pixels), PDF, text in UTF-8.

What a client says of a file decides nothing but which kind of text it is.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

PDF = "application/pdf"
_PLAIN = "text/plain"
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_JPEG_SEGMENTS_MAX = 1_000  # before the one that holds the size
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that begin one; the three begin tables
_TEXT_TYPES = {
    "c": "text/x-c",
    "cpp": "text/x-c++",
    "cs": "text/x-csharp",
    "css": "text/css",
    "csv": "text/csv",
    "go": "text/x-go",
    "html": "text/html",
    "java": "text/x-java",
    "js": "text/javascript",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown",
    "php": "text/x-php",
    "py": "text/x-python",
    "rb": "text/x-ruby",
    "rs": "text/x-rust",
    "sh": "text/x-sh",
    "sql": "text/x-sql",
    "tex": "text/x-tex",
    "toml": "application/toml",
    "ts": "text/x-typescript",
    "tsv": "text/tab-separated-values",
    "txt": _PLAIN,
    "xml": "text/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}
_KNOWN_TEXT_TYPES = frozenset(_TEXT_TYPES.values())
_EXTENSIONS = {
    PDF: "pdf",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    **{media_type: extension for extension, media_type in reversed(_TEXT_TYPES.items())},
}

SUPPORTED = "PNG, JPEG, GIF and WebP images, PDF, and text in UTF-8"


@dataclass(frozen=True, slots=True)
class Media:
    """`pixel_count` is an image's; 0 where it cannot be read, null for everything else."""

    media_type: str
    pixel_count: int | None = None

    @property
    def is_image(self) -> bool:
        return self.pixel_count is not None

    @property
    def extension(self) -> str:
        return _EXTENSIONS[self.media_type]


def recognised(content: bytes, *, filename: str | None, said_type: str) -> Media | None:
    """What `content` is; None for what is none of the supported kinds.

    Of a text, the extension of `filename` says which kind it is, else `said_type` if it is one of those.
    """
    for magic, media_type, size_of in _IMAGES:
        if magic.match(content):
            width, height = size_of(content)
            return Media(media_type, width * height)
    if content.startswith(b"%PDF-"):
        return Media(PDF)
    if not _is_text(content):
        return None
    by_name = _TEXT_TYPES.get(PurePosixPath(filename or "").suffix[1:].lower())
    said = said_type.lower()
    return Media(by_name or (said if said in _KNOWN_TEXT_TYPES else _PLAIN))


def _is_text(content: bytes) -> bool:
    if _NO_TEXT.search(content):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# Each returns width and height in pixels; (0, 0) for a head that makes no sense.


def _png_size(content: bytes) -> tuple[int, int]:
    return _unpacked(">II", content, 16) if content[12:16] == b"IHDR" else (0, 0)


def _gif_size(content: bytes) -> tuple[int, int]:
    return _unpacked("<HH", content, 6)


def _webp_size(content: bytes) -> tuple[int, int]:
    match content[12:16]:
        case b"VP8X":
            width, height = content[24:27], content[27:30]
            return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
        case b"VP8L" if content[20:21] == b"\x2f":
            bits = int.from_bytes(content[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if content[23:26] == b"\x9d\x01\x2a":
            width_bits, height_bits = _unpacked("<HH", content, 26)
            return width_bits & 0x3FFF, height_bits & 0x3FFF
    return 0, 0


def _jpeg_size(content: bytes) -> tuple[int, int]:
    position = 2
    for _ in range(_JPEG_SEGMENTS_MAX):
        marker = content[position : position + 2]
        if len(marker) < 2 or marker[0] != 0xFF:  # noqa: PLR2004 - a marker is two bytes, the first one 0xFF
            break
        if marker[1] in _JPEG_FRAMES:
            height, width = _unpacked(">HH", content, position + 5)
            return width, height
        length, _ = _unpacked(">HH", content, position + 2)
        position += 2 + length
    return 0, 0


def _unpacked(form: str, content: bytes, offset: int) -> tuple[int, int]:
    try:
        first, second = struct.unpack_from(form, content, offset)
    except struct.error:
        return 0, 0
    return first, second


_IMAGES: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], tuple[int, int]]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _png_size),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _jpeg_size),
    (re.compile(rb"GIF8[79]a"), "image/gif", _gif_size),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", _webp_size),
)
