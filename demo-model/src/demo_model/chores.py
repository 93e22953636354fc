"""What an application asks a model for behind the user's back: a title, a summary. Rules do for both.

Such a request is known by how its system message begins. What is to be worked on is in the user's message, as plain
text or as JSON lines of `{"from": …, "text": …}`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from demo_model.wire import Message

TITLE_WORDS_MAX = 6
SUMMARY_LINES_MAX = 8
SUMMARY_WORDS_MAX = 12

_WORDS = re.compile(r"[^\W_][\w'’-]*")  # noqa: RUF001 - as people write it
_COURTESY = re.compile(r"^(?:(?:please|hello|hi|hey|ok|so|could you|can you|would you)\b[\s,!.]*)+", re.IGNORECASE)


def answer(messages: Sequence[Message]) -> str | None:
    """The title or the summary that is asked for; None where neither is."""
    asked = next((message.text.lstrip() for message in messages if message.role in {"system", "developer"}), "")
    said = next((message.text for message in reversed(messages) if message.role == "user"), "")
    return next((write(_lines(said)) for beginning, write in _CHORES.items() if asked.startswith(beginning)), None)


def _title(lines: Sequence[tuple[str, str]]) -> str:
    texts = [text for speaker, text in lines if speaker in {"", "user"}] or [text for _, text in lines]
    words = _WORDS.findall(_COURTESY.sub("", texts[0])) if texts else []
    title = " ".join(words[:TITLE_WORDS_MAX]) or "A conversation"
    return title[:1].upper() + title[1:]


def _summary(lines: Sequence[tuple[str, str]]) -> str:
    told = [f"{speaker or 'text'}: {_short(text)}" for speaker, text in lines if text.strip()]
    left_out = f"(and {len(told) - SUMMARY_LINES_MAX} before) " if len(told) > SUMMARY_LINES_MAX else ""
    return f"Summary: {left_out}{'; '.join(told[-SUMMARY_LINES_MAX:]) or 'nothing was said'}."


_CHORES: Mapping[str, Callable[[Sequence[tuple[str, str]]], str]] = {"Write a title": _title, "Summarise": _summary}


def _short(text: str) -> str:
    words = text.rstrip(".").split()
    return " ".join(words[:SUMMARY_WORDS_MAX]) + (" …" if len(words) > SUMMARY_WORDS_MAX else "")


def _lines(said: str) -> list[tuple[str, str]]:
    """Who said what; nobody's name where that is not told."""
    return [_line(line) for line in said.splitlines() if line.strip()]


def _line(line: str) -> tuple[str, str]:
    try:
        found: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", line
    return str(found.get("from", "")), str(found.get("text", ""))
