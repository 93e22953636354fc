"""What turns came to: times, wrong words, failures; and their summary."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.words import Verdict


class Way(StrEnum):
    """How a client follows its turn."""

    STREAM = "stream"  # one stream to the end
    RESUME = "resume"  # leaves the stream in the middle, and comes back for the rest
    POLL = "poll"  # asks now and then
    CANCEL = "cancel"  # stops it in the middle
    PERSIST = "persist"  # comes back whenever the stream is lost, until it ends


@dataclass(slots=True)
class Outcome:
    """One turn. Times are `time.perf_counter`'s; `intended_at` is when it was due: from then on it waits."""

    way: Way
    intended_at: float
    first_at: float | None = None
    ended_at: float | None = None
    trouble: str = ""
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def is_failed(self) -> bool:
        return bool(self.trouble)


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds: of `count` values these quantiles."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


def spread(seconds: Sequence[float]) -> Spread | None:
    """None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

    return Spread(len(ordered), at(0.5), at(0.95), at(0.99), round(ordered[-1] * 1000, 3))


class Log:
    """Takes outcomes, and the gaps between tokens as they are heard."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.gaps = array("d")
        self.began_at = 0.0
        self.ended_at = 0.0
        self.bytes_received = 0
        self.cpu_seconds = 0.0

    def summary(self) -> dict[str, Any]:
        """For reports. Failed turns have no times, but count."""
        good = [outcome for outcome in self.outcomes if not outcome.is_failed]
        verdicts = [outcome.verdict for outcome in self.outcomes]
        first = [
            outcome.first_at - outcome.intended_at
            for outcome in good
            if outcome.first_at is not None and outcome.way in {Way.STREAM, Way.RESUME}
        ]
        whole = [
            outcome.ended_at - outcome.intended_at
            for outcome in good
            if outcome.ended_at is not None and outcome.way is not Way.CANCEL
        ]
        seconds = self.ended_at - self.began_at
        return {
            "turns": len(self.outcomes),
            "failed": len(self.outcomes) - len(good),
            "troubles": dict(
                Counter(outcome.trouble[:160] for outcome in self.outcomes if outcome.is_failed).most_common(5)
            ),
            "ways": dict(Counter(outcome.way.value for outcome in self.outcomes)),
            "wrong_answers": sum(not verdict.is_right for verdict in verdicts),
            "lost_words": sum(verdict.lost for verdict in verdicts),
            "doubled_words": sum(verdict.doubled for verdict in verdicts),
            "foreign_words": sum(verdict.foreign for verdict in verdicts),
            "misplaced_words": sum(verdict.misplaced for verdict in verdicts),
            "seconds": round(seconds, 3),
            "turns_per_second": round(len(good) / seconds, 2) if seconds else None,
            "first_token_ms": spread(first),
            "between_tokens_ms": spread(self.gaps),
            "whole_turn_ms": spread(whole),
            "bytes_per_turn": round(self.bytes_received / len(self.outcomes)) if self.outcomes else None,
            "generator_cpu_seconds": round(self.cpu_seconds, 3),
            "generator_cpu_share": round(self.cpu_seconds / seconds, 3) if seconds else None,
        }
