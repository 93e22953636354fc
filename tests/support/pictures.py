"""The smallest files of each kind that the gateway takes; images without a picture, but with a size."""

import base64
import struct


def png(width: int = 2, height: int = 3) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)


def gif(width: int = 2, height: int = 3) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height)


def jpeg(width: int = 2, height: int = 3) -> bytes:
    comment = b"\xff\xfe" + struct.pack(">H", 7) + b"hello"
    return b"\xff\xd8" + comment + b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"


def webp(width: int = 2, height: int = 3, form: bytes = b"VP8X") -> bytes:
    head = b"RIFF" + struct.pack("<I", 30) + b"WEBP" + form + struct.pack("<I", 10)
    match form:
        case b"VP8X":
            sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
            return head + bytes(4) + sizes
        case b"VP8L":
            return head + b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
        case _:
            return head + b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
