"""What a test may ask of one request: how fast, how long, and which fault.

The knobs come, later ones winning, from the model's name (`demo?tokens=200&delay_ms=20`), from headers
(`x-demo-tokens: 200`) and, where directives are switched on, from the last user message (`[[demo: tokens=200 echo]]`).
An unknown knob or a value out of range is refused, so that a slip in a test is seen.
"""

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from demo_model.wire import RequestError

TOKENS_MAX = 100_000
DELAY_MS_MAX = 600_000
COUNT_MAX = 1_000_000
KEY_LENGTH_MAX = 200
KEYS_MAX = 10_000  # keys whose requests are counted; the one unused for longest is forgotten
RECORDS_MAX = 10_000

FAULTS = {
    "hang": "no answer, or none after `fault_after` deltas, until the client leaves",
    "cut": "the connection breaks after `fault_after` deltas (default 3)",
    "garbage": "after `fault_after` deltas something that is no JSON",
    "html": "a page of HTML with status 200, as a broken proxy sends",
    "empty": "a complete answer without a word",
    "no_finish": "all deltas, then the end without finish_reason, usage and [DONE]",
    "bad_tool_json": "a tool call whose arguments are no JSON",
    "unknown_tool": "a call of a tool that was not offered",
    "endless": "numbered words until the client leaves or max_tokens is reached",
    "content_filter": "the answer ends after `fault_after` deltas (default 3) with finish_reason content_filter",
}  # besides: a status from 400 to 599, as the response or, with `fault_after`, as an error event in the stream

_DIRECTIVE = re.compile(r"\s*\[\[demo:(.*?)\]\](?!\])\s*", re.IGNORECASE | re.DOTALL)
_ARGUMENTS = "args="
_HEADER_PREFIX = "x-demo-"
_INTEGERS = {
    "tokens": TOKENS_MAX,
    "reasoning": TOKENS_MAX,
    "first_delay_ms": DELAY_MS_MAX,
    "delay_ms": DELAY_MS_MAX,
    "fault_after": COUNT_MAX,
    "fault_times": COUNT_MAX,
    "retry_after": COUNT_MAX,
}


@dataclass(frozen=True, slots=True)
class Knobs:
    """Settings of one request. `tokens`: answer with that many numbered words; `echo`: with the user's message.

    `call`: ask for this tool, or for these (`a,b`), with the JSON object `args` (last in a directive: it may have
    spaces), then tell what they answered. `reasoning`: think that many words before the answer.
    `fault_times`: only the first so many requests with this `key` fail. `retry_after` is in seconds.
    """

    tokens: int | None = None
    echo: bool = False
    call: str = ""
    args: str = "{}"
    reasoning: int | None = None
    first_delay_ms: int = 0
    delay_ms: int | None = None
    fault: str | None = None
    fault_after: int | None = None
    fault_times: int | None = None
    retry_after: int | None = None
    key: str = ""

    @property
    def status(self) -> int | None:
        """The HTTP status, where the fault is one."""
        return int(self.fault) if self.fault and self.fault.isdigit() else None


_NAMES = frozenset(field.name for field in fields(Knobs))


def read_knobs(model: str, headers: Mapping[str, str], directives: Iterable[str]) -> Knobs:
    """The knobs that a request sets. Raises `RequestError` for one that does not exist or has no such value."""
    said = dict(parse_qsl(model.partition("?")[2], keep_blank_values=True))
    for name, value in headers.items():
        if name.startswith(_HEADER_PREFIX):
            said[name.removeprefix(_HEADER_PREFIX).replace("-", "_")] = value
    for directive in directives:
        words, has_arguments, arguments = directive.partition(_ARGUMENTS)
        for word in words.split():
            name, _, value = word.partition("=")
            said[name] = value
        if has_arguments:
            said["args"] = arguments.strip()
    return _checked(said)


def split_directives(text: str) -> tuple[str, list[str]]:
    """A message without its directives, and the directives."""
    if "[[" not in text:
        return text, []
    return _DIRECTIVE.sub(" ", text).strip(), _DIRECTIVE.findall(text)


class FaultCounter:
    """How often requests of a key have failed on purpose. Bounded; one per process."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._failed: OrderedDict[str, int] = OrderedDict()

    def strikes(self, knobs: Knobs) -> bool:
        """Whether this request fails; counts it if so."""
        if knobs.fault is None:
            return False
        if knobs.fault_times is None:
            return True
        failed = self._failed.pop(knobs.key, 0)
        strikes = failed < knobs.fault_times
        self._failed[knobs.key] = failed + strikes
        if len(self._failed) > self._keys_max:
            self._failed.popitem(last=False)
        return strikes


@dataclass(frozen=True, slots=True)
class Record:
    """One request as a test wants to see it."""

    key: str
    model: str
    messages: int
    user_messages: int
    last_user_message: str
    tools: tuple[str, ...]
    stream: bool


class Recorder:
    """The latest requests, bounded, and how often each of their keys was asked."""

    def __init__(self, records_max: int = RECORDS_MAX) -> None:
        self._records_max = records_max
        self._records: deque[Record] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        if len(self._records) == self._records_max:
            dropped = self._records.popleft()
            self._counts[dropped.key] -= 1
            if not self._counts[dropped.key]:
                del self._counts[dropped.key]
        self._records.append(record)
        self._counts[record.key] += 1

    def of(self, key: str | None) -> tuple[Record, ...]:
        """The requests of a key, oldest first; all of them without a key."""
        return tuple(record for record in self._records if key is None or record.key == key)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)


def _checked(said: Mapping[str, str]) -> Knobs:
    values: dict[str, int | str | bool] = {}
    for name, value in said.items():
        if name not in _NAMES:
            raise RequestError(f"There is no knob '{name}'. Known are: {', '.join(sorted(_NAMES))}.", name)
        values[name] = _value(name, value)
    return Knobs(**values)  # type: ignore[arg-type]  # each value was checked against its name


def _value(name: str, value: str) -> int | str | bool:
    if name in _INTEGERS:
        if not (re.fullmatch(r"[0-9]{1,9}", value) and int(value) <= _INTEGERS[name]):
            raise RequestError(f"The knob '{name}' wants a number from 0 to {_INTEGERS[name]}.", name)
        return int(value)
    if name == "args":
        return _object(value)
    if name == "echo":
        return value.lower() not in {"0", "false", "no"}
    if name == "fault" and value not in FAULTS and not re.fullmatch(r"[45]\d\d", value):
        raise RequestError(
            f"There is no fault '{value}'. Known are: {', '.join(FAULTS)}, or a status from 400 to 599.", name
        )
    return value[:KEY_LENGTH_MAX]


def _object(text: str) -> str:
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError("The knob 'args' wants a JSON object.", "args") from error
    return text
