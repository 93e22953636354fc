"""The words after "add": a task's title, and the due date, priority and description said along with it."""

import re
from datetime import date

from demo_model import dates
from demo_model.intents import NewTask, Priority

_I = re.IGNORECASE
_PRIORITIES = {
    Priority.LOW: r"low(?:est)?|not\s+(?:so\s+|that\s+|very\s+)?(?:urgent|important)",
    Priority.NORMAL: r"normal|medium|regular",
    Priority.HIGH: r"high(?:est)?|top|urgent|critical|important",
}
_LEVEL = "|".join(f"(?P<{name}>{words})" for name, words in _PRIORITIES.items())
_PRIORITY_PHRASE = re.compile(
    rf"(?:(?:a|as|of|to|very|really|super)\s+)*(?:(?:priority\s*(?:is|of|to|:|=)?\s*)?(?:{_LEVEL})(?:[\s-]priority)?)",
    _I,
)
# With the word "priority" anywhere; without it only set apart at the end or the start.
_PRIORITY_IN_TEXT = (
    re.compile(
        rf"[\s,;(]*(?:\b(?:with|as|at|and|it's|it\s+is|that's|this\s+is|has|make\s+it)\s+)*(?:a\s+|very\s+)?\b(?:{_LEVEL})[\s-]priority\b\)?",
        _I,
    ),
    re.compile(rf"[\s,;(]*\b(?:(?:with|and|set)\s+)*(?:the\s+)?priority\s*(?:is|of|to|:|=)?\s*(?:{_LEVEL})\b\)?", _I),
    re.compile(
        r"(?:[\s,;.!-]+(?:and\s+)?(?:it's|it\s+is|this\s+is|that's|this\s+one\s+is)\s+(?:really\s+|very\s+)?|[\s]*[,;(!-]+\s*)"
        r"(?:(?P<low>not\s+(?:so\s+|that\s+)?(?:urgent|important)|no\s+(?:rush|hurry))|(?P<high>urgent|important|asap|critical))\b\)?[\s!.]*$",
        _I,
    ),
    re.compile(r"\s+(?:(?P<high>asap|urgently)|(?P<low>no\s+(?:rush|hurry)))[\s!.]*$", _I),
    re.compile(r"^(?P<high>urgent|important)\s*[:!,-]\s*", _I),
)
_DESCRIPTION = re.compile(
    r"[\s,;.(]*(?:\b(?:and\s+)?with\s+(?:a\s+|the\s+)?(?:description|notes?|details?|comment)\b|\b(?:description|notes?|details?|comment)\s*(?=:))"
    r"\s*(?:of\b|:|that\s+says\b|saying\b|that\b)?\s*"
    r"(?:\"(?P<quoted>[^\"]+)\"|(?P<plain>.+?)(?=[\s,;.]+(?:and\s+)?(?:due\b|with\s+(?:high|low|normal|top)|(?:high|low|normal|top)\s+priority|priority\b)|$))",
    _I | re.DOTALL,
)
_QUOTED_TITLE = re.compile(r"^\"(?P<title>[^\"]+)\"(?P<rest>.*)$", re.DOTALL)
_FILLER_BEFORE = re.compile(
    r"^(?:[\s,:;.-]+|(?:that\s+)?(?:i|we)\s+(?:need|have|want)\s+to\s+|(?:that\s+)?(?:i|we)\s+(?:must|should)\s+|(?:called|named|titled)\s+"
    r"|(?:to|about|that)\s+)+",
    _I,
)
_FILLER_AFTER = re.compile(r"(?:[\s,:;.-]+|\s+(?:and|with|it's|it\s+is|please|as\s+well|too)|\s*\(\s*\))+$", _I)
_ITEM_MARK = re.compile(r"(?:^|\n|(?<=\s))\s*(?:[-*•]|\(?\d{1,2}[.)])\s+")
_ITEM_BREAK = re.compile(r"\s*(?:,\s*and\s+(?:also\s+)?|,|;|\n|\s+and\s+(?:also\s+)?|\s+plus\s+)\s*", _I)


def read(text: str, today: date) -> NewTask:
    """One task. The title keeps the person's own words and may be empty."""
    if quoted := _QUOTED_TITLE.match(text.strip()):
        rest = read(quoted["rest"], today)
        return NewTask(quoted["title"].strip(), rest.description, rest.due, rest.priority)
    text, description = _take_description(text)
    text, priority = _take_priority(text)
    found = dates.find(text, today)
    if found:
        text = _without(text, found.start, found.end)
    return NewTask(_trimmed(text), description, found.day if found else None, priority)


def read_list(text: str, today: date) -> tuple[NewTask, ...]:
    """Several tasks: bullets, numbers, lines, or separated by commas, semicolons and "and".

    A due date or priority introduced by "all" ("…, all due Friday") goes to each.
    """
    shared = NewTask("")
    if tail := re.search(r"[\s,;]+all\s+(?:of\s+them\s+)?(?P<rest>(?:due|for|by|on|with|high|low)\b.*)$", text, _I):
        shared = read(tail["rest"], today)
        text = text[: tail.start()]
    parts = _ITEM_MARK.split(text)[1:] if len(_ITEM_MARK.findall(text)) > 1 else _ITEM_BREAK.split(text)
    items = [read(re.sub(r"^(?:and|then)\s+", "", part.strip()), today) for part in parts]
    return tuple(
        NewTask(
            item.title, item.description or shared.description, item.due or shared.due, item.priority or shared.priority
        )
        for item in items
        if item.title
    )


def is_listing(text: str) -> bool:
    """Whether the form alone says that these are several: bullets or lines."""
    return len(_ITEM_MARK.findall(text)) > 1 or len([line for line in text.splitlines() if line.strip()]) > 1


def priority_of(text: str) -> Priority | None:
    """The priority, where the text says nothing else: "urgent", "high priority", "priority: low"."""
    match = _PRIORITY_PHRASE.fullmatch(text.strip(" .!\"'"))
    return _level(match) if match else None


def _take_description(text: str) -> tuple[str, str]:
    match = _DESCRIPTION.search(text)
    if match is None:
        return text, ""
    description = (match["quoted"] or match["plain"]).strip(" .\"'")
    return _without(text, *match.span()), description


def _take_priority(text: str) -> tuple[str, Priority | None]:
    for pattern in _PRIORITY_IN_TEXT:
        if match := pattern.search(text):
            return _without(text, *match.span()), _level(match)
    return text, None


def _level(match: re.Match[str]) -> Priority:
    return next(Priority(name) for name, words in match.groupdict().items() if words)


def _without(text: str, start: int, end: int) -> str:
    return f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()


def _trimmed(text: str) -> str:
    text = _FILLER_AFTER.sub("", _FILLER_BEFORE.sub("", text.strip()))
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        text = text[1:-1]
    return " ".join(text.split())
