"""What came along with a message: images and files, by number, kind and size. The rules see no more of them."""

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Any

from demo_model.wire import Message

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE_AT = 16


def described(messages: Sequence[Message]) -> str | None:
    """What the last user message brought; None where that is text alone."""
    last = next((message for message in reversed(messages) if message.role == "user"), None)
    if last is None or not last.attachments:
        return None
    images = [_image(part) for part in last.attachments if part["type"] == "image_url"]
    files = [_file(part) for part in last.attachments if part["type"] == "file"]
    groups = [_counted(images, "image"), _counted(files, "file")]
    return f"You sent {' and '.join(group for group in groups if group)}."


def _counted(told: Sequence[str], noun: str) -> str:
    return f"{len(told)} {noun}{'' if len(told) == 1 else 's'} ({', '.join(told)})" if told else ""


def _image(part: dict[str, Any]) -> str:
    url = str((part.get("image_url") or {}).get("url", ""))
    if not url.startswith("data:"):
        return "at an address that I do not open"
    kind, content = _opened(url)
    return f"{kind}, {_size(content)}"


def _file(part: dict[str, Any]) -> str:
    file = part.get("file") or {}
    kind, content = _opened(str(file.get("file_data", "")))
    return f"{file.get('filename', 'without a name')}: {kind}, {_size(content)}"


def _opened(url: str) -> tuple[str, bytes]:
    """The media type and the content of a data URL."""
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").partition(";")[0] or "unknown"
    try:
        return kind, base64.b64decode(data)
    except (binascii.Error, ValueError):
        return kind, b""


def _size(content: bytes) -> str:
    size = f"{len(content)} bytes"
    if content.startswith(_PNG_START) and len(content) >= _PNG_SIZE_AT + 8:
        width, height = struct.unpack_from(">II", content, _PNG_SIZE_AT)
        return f"{width} x {height} pixels, {size}"
    return size
