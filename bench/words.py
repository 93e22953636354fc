"""What the model is asked for, and whether that came: every word names its turn and its place in it.

A prompt holds a directive, `[[bench key=k7 tokens=3 …]]`, and the model of the benches answers "k7.0 k7.1 k7.2". So a
word that was lost, came twice, or is another turn's is seen, whatever system carried it.
"""

import re
from collections import Counter
from dataclasses import dataclass, fields

_DIRECTIVE = re.compile(r"\[\[bench ([^\]]*)\]\]")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer: `tokens` words, `burst` of them in a delta, `pace` a second (0: as fast as they can be written).

    The first comes after `first_ms`. With `tool`, a call of the tool whose name ends so comes before the answer.
    """

    key: str
    tokens: int = 22
    pace: float = 0.0
    burst: int = 1
    first_ms: float = 0.0
    tool: str = ""

    @property
    def directive(self) -> str:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return "[[bench " + " ".join(f"{name}={value}" for name, value in said.items() if value != "") + "]]"

    @property
    def seconds(self) -> float:
        """How long the model takes for it."""
        writes = -(-self.tokens // self.burst)
        return self.first_ms / 1000 + ((writes - 1) * self.burst / self.pace if self.pace else 0.0)

    def words(self) -> list[str]:
        return [f"{self.key}.{number}" for number in range(self.tokens)]


def wanted_in(text: str) -> Wanted | None:
    """What the last directive in `text` asks for."""
    found = _DIRECTIVE.findall(text)
    if not found:
        return None
    said = dict(word.split("=", 1) for word in found[-1].split())
    return Wanted(
        key=said["key"],
        tokens=int(said.get("tokens", 22)),
        pace=float(said.get("pace", 0)),
        burst=int(said.get("burst", 1)),
        first_ms=float(said.get("first_ms", 0)),
        tool=said.get("tool", ""),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many words of one answer were wrong, and how."""

    lost: int = 0
    doubled: int = 0
    foreign: int = 0
    misplaced: int = 0

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.foreign or self.misplaced)


def judged(wanted: Wanted, text: str) -> Verdict:
    """Compare an answer with what was asked for, word by word."""
    expected, came = wanted.words(), text.split()
    if came == expected:
        return Verdict()
    counts, ours = Counter(came), set(expected)
    lost = len(ours - counts.keys())
    doubled = sum(count - 1 for word, count in counts.items() if word in ours)
    foreign = sum(count for word, count in counts.items() if word not in ours)
    in_order = [word for word in came if word in ours]
    misplaced = sum(a != b for a, b in zip(in_order, expected, strict=False)) if not (lost or doubled) else 0
    return Verdict(lost, doubled, foreign, misplaced)
