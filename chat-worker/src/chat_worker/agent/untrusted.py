"""Text that strangers wrote, made fit to store, to show and to be read by a model as data.

Tool servers say what their tools are called and do, and what came of a call. None of it is an instruction, and nothing
here could tell one from a description: what is done about orders is policy (`shared.tool_servers`), not wording. What
is taken away is what a reader cannot see and a model can, and what endpoints may take for the frame of a message.
"""

import json
import re
from typing import Any

_SURROGATES = "\ud800-\udfff"
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but line feed and tab
# What Unicode calls ignorable by default, bidirectional controls and tag characters among it. Not the joiners and the
# two signs that choose between text and emoji: scripts and emoji need those.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_UNSHOWABLE = re.compile(f"[{_CONTROLS}{_SURROGATES}{_INVISIBLE}]+")
# No script has more of them in a row; a long row is a message that nobody sees.
_JOINERS = re.compile("([\u200c\u200d\ufe0e\ufe0f]{2})[\u200c\u200d\ufe0e\ufe0f]+")

# By these, common chat templates tell messages and roles apart. An endpoint should take them for mere text in a
# message; not every one does.
_FRAME = re.compile(
    r"<(?=[|\uff5c][^<>\s]{1,64}[|\uff5c]>"  # <|im_start|>, and with the wide bars of some models
    r"|/?(?:start_of_turn|end_of_turn|tool_call|tool_calls|tool_response|tool_result|function_calls|think)>"
    r"|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
_EXPLANATIONS = frozenset({"title", "description", "$comment"})


def cleaned(text: str) -> str:
    """`text` without what cannot be seen: controls, lone surrogates, tags, signs that change the direction."""
    return _JOINERS.sub(r"\1", _UNSHOWABLE.sub("", text))


def cleaned_json(value: Any) -> Any:
    """`value`, of JSON, with each text in it cleaned."""
    match value:
        case str():
            return cleaned(value)
        case list():
            return [cleaned_json(item) for item in value]
        case dict():
            return {cleaned(name): cleaned_json(item) for name, item in value.items()}
        case _:
            return value


def shown(text: str, bytes_max: int) -> str:
    """`text` cut, then cleaned: what is left out costs nothing."""
    return cleaned(cut(text, bytes_max))


def shown_json(value: Any, bytes_max: int) -> str:
    """`value` as JSON without blanks between its parts, cut where it is over `bytes_max`, and cleaned.

    In what had to be cut, control characters that JSON escapes stay as they are written there, for everyone to see.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text) > bytes_max:
        return shown(text, bytes_max)
    return cut(json.dumps(cleaned_json(value), ensure_ascii=False, separators=(",", ":")), bytes_max)


def unframed(text: str) -> str:
    """`text` in which nothing looks like the frame of a message: a blank goes into what does."""
    return _FRAME.sub(lambda found: f"{found[0]} ", text)


def unframed_schema(schema: Any) -> Any:
    """`schema` with its explanations unframed; names and values are what calls are made of, so they stay."""
    match schema:
        case list():
            return [unframed_schema(part) for part in schema]
        case dict():
            return {
                name: unframed(part) if isinstance(part, str) and name in _EXPLANATIONS else unframed_schema(part)
                for name, part in schema.items()
            }
        case _:
            return schema


def cut(text: str, bytes_max: int) -> str:
    """`text`, its end replaced by a note where it has more than `bytes_max` bytes."""
    encoded = text.encode(errors="ignore")
    if len(encoded) <= bytes_max:
        return text
    note = f"\n[cut here; the whole result has {len(encoded)} bytes]"
    return encoded[: max(0, bytes_max - len(note))].decode(errors="ignore") + note
