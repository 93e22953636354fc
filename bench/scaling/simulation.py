"""Turns going through the system, event by event: every part has its CPU, and what is busy makes others wait.

What it knows: the costs of each part (`costs`), that a Python process does one thing at a time, that processes of one
machine share its cores, that a worker gathers the bursts of all its answers for a partition and has one message of them
in flight, and that persistence takes everything that waits in a partition as one transaction. What it leaves out: the
network, memory, disks that are busy, locks. One constant stands for all waiting that is no CPU: it is set so that a
single turn on an idle machine takes as long as it was measured to.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import mean
from typing import TypeAlias

from bench.scaling.costs import COMMITS_BEFORE, Cost, Shape

Step: TypeAlias = Generator["Wait", None, None]
Told: TypeAlias = Callable[[], None]

_GATHER_SECONDS = 0.025  # the default of CHAT_WORKER_FLUSH_SECONDS; what is first or last does not wait


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many of each there are. `cores`: of the one machine that has them all; None: each process has its own.

    Postgres and RabbitMQ use as many cores as they are given, `postgres_cores` and `rabbitmq_cores`.
    """

    gateways: int = 1
    workers: int = 1
    partitions: int = 4
    persistences: int = 1
    cores: int | None = None
    postgres_cores: int = 4
    rabbitmq_cores: int = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, after the warm-up. Times in seconds; `busy` is the part's share of what it has of CPU."""

    turns_per_second: float
    first_token_p50: float
    first_token_p95: float
    commits_per_turn: float
    busy: Mapping[str, float]


class Wait:
    """What a step waits for: a time, or room at a place."""

    def __init__(self, seconds: float = 0.0, place: "Place | None" = None) -> None:
        self.seconds = seconds
        self.place = place


@dataclass
class Place:
    """So many can be in it at a time; the others wait in order."""

    room: int
    inside: int = 0
    waiting: deque[Step] = field(default_factory=deque)
    busy_seconds: float = 0.0


@dataclass
class Lane:
    """From one worker to one partition: what waits to be sent, and whether that may be put off."""

    waiting: deque[Told] = field(default_factory=deque)
    is_urgent: bool = False
    is_sending: bool = False


class Clock:
    """Runs steps in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Step]] = []
        self._numbers = count()

    def start(self, step: Step, after: float = 0.0) -> None:
        heapq.heappush(self._due, (self.now + after, next(self._numbers), step))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, step = heapq.heappop(self._due)
            self._go_on(step)
        self.now = until

    def leave(self, place: Place) -> None:
        place.inside -= 1
        if place.waiting:
            place.inside += 1
            self.start(place.waiting.popleft())

    def _go_on(self, step: Step) -> None:
        wait = next(step, None)
        if wait is None:
            return
        if wait.place is None:
            self.start(step, wait.seconds)
        elif wait.place.inside < wait.place.room:
            wait.place.inside += 1
            self.start(step)
        else:
            wait.place.waiting.append(step)


class Simulation:
    """One fleet under one load."""

    def __init__(
        self, fleet: Fleet, costs: Mapping[str, Cost], shape: Shape, *, elsewhere_seconds: float = 0.0, seed: int = 1
    ) -> None:
        self._fleet, self._costs, self._shape = fleet, costs, shape
        self._elsewhere_seconds = elsewhere_seconds
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._clock = Clock()
        self._machine = Place(fleet.cores) if fleet.cores else None
        self._gateways = [Place(1) for _ in range(fleet.gateways)]
        self._workers = [Place(1) for _ in range(fleet.workers)]
        self._persistences = [Place(1) for _ in range(fleet.persistences)]
        self._postgres, self._rabbitmq = Place(fleet.postgres_cores), Place(fleet.rabbitmq_cores)
        self._lanes = [[Lane() for _ in range(fleet.partitions)] for _ in range(fleet.workers)]
        self._partitions: list[deque[list[Told]]] = [deque() for _ in range(fleet.partitions)]
        self._writing = [False] * fleet.partitions
        self._counts_from = 0.0
        self._first: list[float] = []
        self._ended = 0
        self._commits = 0

    def run(self, seconds: float, warm_up_seconds: float) -> Outcome:
        self._counts_from = warm_up_seconds
        if self._shape.clients:
            for _ in range(self._shape.clients):
                self._clock.start(self._client(), self._random.random() * 0.1)
        else:
            self._clock.start(self._arrivals())
        self._clock.run(warm_up_seconds)
        before = self._busy()
        self._clock.run(warm_up_seconds + seconds)
        used = {part: total - before[part] for part, total in self._busy().items()}
        rooms = {
            "gateway": len(self._gateways),
            "chat-worker": len(self._workers),
            "persistence": len(self._persistences),
            "postgres": self._fleet.postgres_cores,
            "rabbitmq": self._fleet.rabbitmq_cores,
        }
        busy = {part: used[part] / seconds / rooms[part] for part in rooms}
        if self._machine and self._fleet.cores:
            busy["machine"] = sum(used.values()) / seconds / self._fleet.cores
        first = sorted(self._first) or [float("nan")]
        return Outcome(
            turns_per_second=self._ended / seconds,
            first_token_p50=first[len(first) // 2],
            first_token_p95=first[int(len(first) * 0.95)],
            commits_per_turn=self._commits / self._ended if self._ended else float("nan"),
            busy=busy,
        )

    def _busy(self) -> dict[str, float]:
        def total(places: list[Place]) -> float:
            return sum(place.busy_seconds for place in places)

        return {
            "gateway": total(self._gateways),
            "chat-worker": total(self._workers),
            "persistence": total(self._persistences),
            "postgres": self._postgres.busy_seconds,
            "rabbitmq": self._rabbitmq.busy_seconds,
        }

    def _arrivals(self) -> Step:
        while True:
            yield Wait(self._random.expovariate(self._shape.turns_per_second))
            self._clock.start(self._turn())

    def _client(self) -> Step:
        while True:
            yield from self._turn()

    def _turn(self) -> Step:
        """Accept, dispatch, claim, then a burst after the other to the journal and to the reader."""
        began = self._clock.now
        gateway, number_of_worker = self._random.choice(self._gateways), self._random.randrange(len(self._workers))
        worker, partition = self._workers[number_of_worker], self._random.randrange(self._fleet.partitions)
        lane = self._lanes[number_of_worker][partition]
        yield from self._use(gateway, self._costs["gateway"].turn_ms)
        yield from self._use(self._postgres, self._costs["postgres"].turn_ms / 2)
        yield from self._use(self._rabbitmq, self._costs["rabbitmq"].turn_ms)
        yield from self._use(worker, self._costs["chat-worker"].turn_ms)
        yield from self._use(self._postgres, self._costs["postgres"].turn_ms / 2)
        yield Wait(self._elsewhere_seconds)
        self._count_commits(COMMITS_BEFORE)
        for number in range(self._shape.flushes):
            if number:
                yield Wait(self._shape.pause_seconds)
            yield from self._use(worker, self._costs["chat-worker"].flush_ms)
            stored = Place(1, inside=1)
            is_urgent = number in {0, self._shape.flushes - 1}
            self._gather(lane, partition, partial(self._clock.leave, stored), is_urgent=is_urgent)
            reading = self._read(gateway, stored, began if number == 0 else None)
            if number < self._shape.flushes - 1:
                self._clock.start(reading)
            else:
                yield from reading
        if self._clock.now >= self._counts_from:
            self._ended += 1

    def _read(self, gateway: Place, stored: Place, began: float | None) -> Step:
        """The reader hears of a burst once it is stored; of the first, note how long after the turn began."""
        yield Wait(place=stored)
        yield from self._use(gateway, self._costs["gateway"].flush_ms)
        if began is not None and began >= self._counts_from:
            self._first.append(self._clock.now - began)

    def _gather(self, lane: Lane, partition: int, told: Told, *, is_urgent: bool) -> None:
        lane.waiting.append(told)
        lane.is_urgent |= is_urgent
        if not lane.is_sending:
            lane.is_sending = True
            self._clock.start(self._send(lane, partition))

    def _send(self, lane: Lane, partition: int) -> Step:
        """One message after the other, each with all that waits."""
        while lane.waiting:
            if not lane.is_urgent:
                yield Wait(_GATHER_SECONDS)
            lane.is_urgent = False
            message = [lane.waiting.popleft() for _ in range(len(lane.waiting))]
            yield from self._use(self._rabbitmq, self._costs["rabbitmq"].flush_ms * len(message))
            self._partitions[partition].append(message)
            if not self._writing[partition]:
                self._writing[partition] = True
                self._clock.start(self._write(partition))
        lane.is_sending = False

    def _write(self, partition: int) -> Step:
        """Everything that waits is one transaction, and then everything that has come meanwhile."""
        persistence = self._persistences[partition % len(self._persistences)]
        waiting = self._partitions[partition]
        own, postgres, rabbitmq = (self._costs[part] for part in ("persistence", "postgres", "rabbitmq"))
        while waiting:
            batch = [told for _ in range(len(waiting)) for told in waiting.popleft()]
            share = own.turn_ms / self._shape.flushes  # of the turn's own cost, which comes with its bursts
            yield from self._use(persistence, (share + own.flush_ms) * len(batch) + own.batch_ms)
            yield from self._use(self._postgres, postgres.flush_ms * len(batch) + postgres.batch_ms)
            yield from self._use(self._rabbitmq, rabbitmq.batch_ms)
            self._count_commits(1)
            for told in batch:
                told()
        self._writing[partition] = False

    def _count_commits(self, commits: int) -> None:
        if self._clock.now >= self._counts_from:
            self._commits += commits

    def _use(self, place: Place, milliseconds: float) -> Step:
        """Its process, then a core of its machine, for about so long."""
        if not milliseconds:
            return
        seconds = self._random.expovariate(1000.0 / milliseconds)
        yield Wait(place=place)
        if self._machine:
            yield Wait(place=self._machine)
        yield Wait(seconds)
        place.busy_seconds += seconds
        if self._machine:
            self._clock.leave(self._machine)
        self._clock.leave(place)


def calibrated(fleet: Fleet, costs: Mapping[str, Cost], shape: Shape, first_token_seconds: float) -> float:
    """The waiting that is no CPU: what a turn on an idle machine takes longer than its CPU alone explains."""
    alone = mean(Simulation(fleet, costs, shape, seed=seed).run(10.0, 1.0).first_token_p50 for seed in range(3))
    return max(0.0, first_token_seconds - alone)
