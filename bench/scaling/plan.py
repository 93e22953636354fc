"""How many of each a number of conversations needs: arithmetic on the costs, with room to spare."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.scaling.costs import PARTS

# A conversation here: a message a minute, answered by 300 tokens at 30 a second, five at a time.
TURN_SECONDS = 60.0
ANSWER_SECONDS = 10.0
BURSTS = 60
# No more than this share of a core is planned for: what is left takes peaks, restarts and the loss of a node.
FILLED = 0.6


@dataclass(frozen=True, slots=True)
class Need:
    """`cores` of each part; a process of Python uses one at most, so that they are also how many processes."""

    conversations: int
    turns_per_second: float
    streaming: float
    cores: Mapping[str, float]
    commits_per_second: float
    wal_bytes_per_second: float
    journal_events_per_second: float

    @property
    def processes(self) -> dict[str, int]:
        return {part: max(1, math.ceil(self.cores[part])) for part in ("gateway", "chat-worker", "persistence")}


def need(
    conversations: int, cpu_ms_per_turn: Mapping[str, float], commits_per_turn: float, wal_bytes_per_turn: float
) -> Need:
    """What is per turn, as it is under the measured load that comes nearest."""
    turns = conversations / TURN_SECONDS
    return Need(
        conversations=conversations,
        turns_per_second=turns,
        streaming=conversations * ANSWER_SECONDS / TURN_SECONDS,
        cores={part: turns * cpu_ms_per_turn[part] / 1000 / FILLED for part in PARTS},
        commits_per_second=turns * commits_per_turn,
        wal_bytes_per_second=turns * wal_bytes_per_turn,
        journal_events_per_second=turns * BURSTS,
    )
