"""Whose words are where: each tenant says words that nobody else says, and every place that words reach is searched.

A finding is a line of text. Words are searched for as they come, and not kept.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

_TENANTS_MAX = 10_000
# Ids of requests are of one answer, and not of a tenant's things.
_ID = re.compile(rb"\b(?!req_)[a-z]{2,8}_[0-9a-f]{32}\b")


class Canaries:
    """The words and the names of a run's tenants, by their numbers. All of them are plain letters and digits."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._any = re.compile(rb"(canary|user)%sn([0-9]{4})" % run.encode(), re.IGNORECASE)

    def word(self, number: int, place: str) -> str:
        """What this tenant says in this place."""
        return f"canary{self._tenant(number)}{place}"

    def name(self, number: int) -> str:
        """The tenant's user id."""
        return f"user{self._tenant(number)}"

    def named(self, user_id: str) -> int:
        """The number of the tenant with this user id."""
        found = self._any.fullmatch(user_id.encode())
        assert found, user_id
        return int(found[2])

    def said_in(self, data: bytes, *, names_too: bool = True) -> set[int]:
        """Whose words are in it, and whose names."""
        return {int(number) for kind, number in self._any.findall(data) if names_too or kind.lower() == b"canary"}

    def _tenant(self, number: int) -> str:
        assert 0 <= number < _TENANTS_MAX
        return f"{self._run}n{number:04d}"


@dataclass
class Watch:
    """Searches what it is shown; `found` says what was where it must not be, and `byte_counts` how much was searched.

    `own_count`: how often a tenant was shown what is theirs. A search that never finds anything proves nothing.
    """

    canaries: Canaries
    found: list[str] = field(default_factory=list)
    byte_counts: Counter[str] = field(default_factory=Counter)
    own_count: int = 0
    _owners: dict[bytes, int] = field(default_factory=dict)

    def shown(self, number: int, what: str, data: bytes) -> None:
        """A tenant received this. An id belongs to the first who is shown it: no tenant asks for another's."""
        self.byte_counts["shown to tenants"] += len(data)
        self._search(f"{self.canaries.name(number)} was shown by {what}", data, number)
        for wire_id in set(_ID.findall(data)):
            owner = self._owners.setdefault(wire_id, number)
            if owner != number:
                self._find(f"{self.canaries.name(number)} was shown by {what}", f"{wire_id.decode()}, an id", owner)

    def named(self, number: int, what: str, data: bytes) -> None:
        """A tenant asked who they are, and this was the whole answer."""
        if number not in self.canaries.said_in(data):
            self.found.append(f"{self.canaries.name(number)} was told nothing of who they are by {what}")

    def called(self, user_id: str, data: bytes) -> None:
        """A tool server was asked this as this user, or answered it."""
        self.byte_counts["told to and by tool servers"] += len(data)
        self._search(f"a tool server was told as {user_id}, or told", data, self.canaries.named(user_id))

    def asked(self, data: bytes) -> None:
        """The model was asked this, and answered it: one exchange, which is about one tenant."""
        self.byte_counts["told to and by the model"] += len(data)
        first, *others = sorted(self.canaries.said_in(data)) or [0]
        for other in others:
            self._find(f"the model was told for {self.canaries.name(first)}", "a word", other)

    def stored(self, user_id: str, table: str, row: bytes) -> None:
        """This row of the table is the user's."""
        self.byte_counts["stored"] += len(row)
        self._search(f"a row of {table} of {user_id} holds", row, self.canaries.named(user_id))

    def logged(self, process: str, line: bytes) -> None:
        """A log has ids, those of users too, and nothing that anybody said."""
        self.byte_counts["logged"] += len(line)
        self._search(f"the log of {process} has", line, None, names_too=False)

    def measured(self, process: str, text: bytes) -> None:
        self.byte_counts["in metrics"] += len(text)
        self._search(f"the metrics of {process} have", text, None)

    def _search(self, where: str, data: bytes, owner: int | None, *, names_too: bool = True) -> None:
        said = self.canaries.said_in(data, names_too=names_too)
        self.own_count += owner in said
        for number in sorted(said - {owner}):
            self._find(where, "a word", number)

    def _find(self, where: str, what: str, number: int) -> None:
        self.found.append(f"{where} {what} of {self.canaries.name(number)}")
