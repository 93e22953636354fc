"""Identifiers: UUIDv7 inside, a prefix and 32 hexadecimal digits on the wire."""

import os
import time
import uuid
from enum import StrEnum

from shared.errors import InvalidInputError


class Prefix(StrEnum):
    CONVERSATION = "conv"
    RESPONSE = "resp"
    MESSAGE = "msg"
    MCP_CALL = "mcp"
    FUNCTION_CALL = "fc"
    FUNCTION_CALL_OUTPUT = "fco"
    REASONING = "rs"
    TOOL_LIST = "mcpl"
    APPROVAL_REQUEST = "mcpr"
    APPROVAL_RESPONSE = "mcpa"
    FILE = "file"
    DENIAL = "denial"
    WEBHOOK = "wh"
    WEBHOOK_EVENT = "evt"
    COMPLETION = "chatcmpl"
    TASK = "task"
    PURGE = "purge"
    AUDIT_ENTRY = "audit"
    SHARE = "share"


_HEX_DIGITS = frozenset("0123456789abcdef")
_UUID_HEX_LENGTH = 32
_last = 0


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562, section 5.7), increasing within one process.

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of section 6.2).
    """
    global _last  # noqa: PLW0603 - the counter that keeps ids of one process in order
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    _last = max((milliseconds << 12) | (nanoseconds * 4096 // 1_000_000), _last + 1)
    random_bits = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return uuid.UUID(int=((_last >> 12) << 80) | (7 << 76) | ((_last & 0xFFF) << 64) | (2 << 62) | random_bits)


def seconds_since(value: uuid.UUID) -> float:
    """How long ago `uuid7` made it, perhaps on another machine, whose clock may be ahead: then 0."""
    return max(0.0, time.time() - (value.int >> 80) / 1_000)


def to_wire(prefix: Prefix, value: uuid.UUID) -> str:
    return f"{prefix.value}_{value.hex}"


def new_wire_id(prefix: Prefix) -> str:
    return to_wire(prefix, uuid7())


def from_wire(prefix: Prefix, text: str, *, param: str | None = None) -> uuid.UUID:
    """The UUID in a wire id.

    Raises InvalidInputError (`invalid_id`) unless `text` is `prefix_` and 32 lower-case hexadecimal digits.
    """
    head, _, digits = text.partition("_")
    if head == prefix.value and len(digits) == _UUID_HEX_LENGTH and _HEX_DIGITS.issuperset(digits):
        return uuid.UUID(hex=digits)
    raise InvalidInputError(
        "invalid_id", f"Not a valid id: expected '{prefix.value}_' followed by 32 hexadecimal digits.", param=param
    )
