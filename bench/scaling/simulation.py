"""Turns going through the system, event by event: every part has its CPU, and what is busy makes others wait.

What it knows: the costs of each part (`costs`), that a Python process does one thing at a time and has to be woken
where it had nothing to do, that processes of one machine share its cores with what else runs there, that turns which
come to a process together are accepted, and claimed, by one transaction, that a worker gathers the bursts of all its
answers and has one message to each partition in flight, and that a process of persistence takes everything that waits
for it as one transaction. What it leaves out: the network, memory, disks that are busy, locks. One constant stands for
all waiting that is no CPU: it is set so that a single turn on an idle machine takes as long as it was measured to.
Another, `_SLICE_SECONDS`, by the transactions of a turn at saturation.
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

from bench.scaling.costs import PARTS, Cost, Shape

Step: TypeAlias = Generator["Wait", None, None]
Told: TypeAlias = Callable[[], None]

_GATHER_SECONDS = 0.04  # CHAT_WORKER_FLUSH_SECONDS of what was measured; what is first or last does not wait
_SLICE_SECONDS = 0.02  # so long a process that has more to do keeps its core; set by what was measured
_TOGETHER_MAX = 32  # as shared/db/together.py has it


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many of each there are. `cores`: of the one machine that has them all; None: each process has its own.

    Postgres and RabbitMQ use as many cores as they are given, `postgres_cores` and `rabbitmq_cores`. `beside_ms`: what
    else uses that machine's cores for a turn, as the model and the load generator do.
    """

    gateways: int = 1
    workers: int = 1
    partitions: int = 4
    persistences: int = 1
    cores: int | None = None
    beside_ms: float = 0.0
    postgres_cores: int = 4
    rabbitmq_cores: int = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. Times in seconds, of turns after the warm-up, as is `busy`, a part's share of its CPU.

    The others are of a turn, counted as the benches do: where turns begin at a rate, with the warm-up and until the
    last one has ended. `write_backs`: those of the commits that are persistence's. `wakings`: how often a part had
    nothing to do and was woken.
    """

    turns_per_second: float
    first_token_p50: float
    first_token_p95: float
    commits_per_turn: float
    write_backs_per_turn: float
    busy: Mapping[str, float]
    cpu_ms: Mapping[str, float]
    wakings: Mapping[str, float]


class Wait:
    """What a step waits for: a time, or room at a place."""

    def __init__(self, seconds: float = 0.0, place: "Place | None" = None) -> None:
        self.seconds = seconds
        self.place = place


@dataclass
class Place:
    """So many can be in it at a time; the others wait in order. `part` names whose CPU it is."""

    room: int
    part: str = ""
    inside: int = 0
    waiting: deque[Step] = field(default_factory=deque)
    busy_seconds: float = 0.0
    wakings: int = 0
    has_core: bool = False
    core_since: float = 0.0


@dataclass
class Together:
    """What a process asks Postgres for: those that come while it asks are asked for together, next."""

    waiting: deque[Place] = field(default_factory=deque)
    is_asking: bool = False


@dataclass
class Lane:
    """From one worker to one partition: what waits to be sent, and whether it is time to."""

    worker: Place
    partition: int
    waiting: deque[Told] = field(default_factory=deque)
    is_due: bool = False
    is_sending: bool = False


@dataclass
class Inbox:
    """What waits for one process of persistence, of all its partitions."""

    process: Place
    messages: deque[list[Told]] = field(default_factory=deque)
    is_writing: bool = False


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
        if until < float("inf"):
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
        self._gateways = [Place(1, "gateway") for _ in range(fleet.gateways)]
        self._workers = [Place(1, "chat-worker") for _ in range(fleet.workers)]
        self._persistences = [Place(1, "persistence") for _ in range(fleet.persistences)]
        self._postgres, self._rabbitmq = (
            Place(fleet.postgres_cores, "postgres"),
            Place(fleet.rabbitmq_cores, "rabbitmq"),
        )
        self._places = [*self._gateways, *self._workers, *self._persistences, self._postgres, self._rabbitmq]
        self._accepting = [Together() for _ in self._gateways]
        self._claiming = [Together() for _ in self._workers]
        self._lanes = [[Lane(worker, number) for number in range(fleet.partitions)] for worker in self._workers]
        self._tides: list[list[Lane]] = [[] for _ in self._workers]  # lanes that leave when it is time
        self._inboxes = [Inbox(process) for process in self._persistences]
        self._counts_from = 0.0
        self._first: list[float] = []
        self._turns = 0
        self._commits = self._write_backs = 0

    def run(self, seconds: float, warm_up_seconds: float) -> Outcome:
        """So many seconds after the warm-up. Turns that begin at a rate run to their end after that."""
        end, self._counts_from = warm_up_seconds + seconds, warm_up_seconds
        start = self._counts()
        if self._shape.clients:
            for _ in range(self._shape.clients):
                self._clock.start(self._client(), self._random.random() * 0.1)
        else:
            self._clock.start(self._arrivals(end))
        self._clock.run(warm_up_seconds)
        before = self._counts()
        self._clock.run(end)
        after = self._counts()
        if self._shape.clients:
            whole = after.since(before)
        else:
            self._clock.run(float("inf"))
            whole = self._counts().since(start)
        first = sorted(self._first) or [float("nan")]
        return Outcome(
            turns_per_second=after.since(before).turns / seconds,
            first_token_p50=first[len(first) // 2],
            first_token_p95=first[int(len(first) * 0.95)],
            commits_per_turn=whole.commits / whole.turns if whole.turns else float("nan"),
            write_backs_per_turn=whole.write_backs / whole.turns if whole.turns else float("nan"),
            busy=self._shares(after.since(before), seconds),
            cpu_ms={part: whole.seconds[part] * 1000 / max(1, whole.turns) for part in PARTS},
            wakings={part: whole.wakings[part] / max(1, whole.turns) for part in PARTS},
        )

    def _counts(self) -> "_Counts":
        seconds, wakings = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
        for place in self._places:
            seconds[place.part] += place.busy_seconds
            wakings[place.part] += place.wakings
        return _Counts(self._turns, self._commits, self._write_backs, seconds, wakings)

    def _shares(self, counts: "_Counts", seconds: float) -> dict[str, float]:
        rooms = dict.fromkeys(PARTS, 0)
        for place in self._places:
            rooms[place.part] += place.room
        busy = {part: counts.seconds[part] / seconds / rooms[part] for part in PARTS}
        if self._fleet.cores:
            beside = counts.turns * self._fleet.beside_ms / 1000
            busy["machine"] = (sum(counts.seconds.values()) + beside) / seconds / self._fleet.cores
        return busy

    def _arrivals(self, end: float) -> Step:
        """As evenly as the benches begin theirs, or by chance as people do."""
        rate = self._shape.turns_per_second
        while self._clock.now < end:
            self._clock.start(self._turn())
            yield Wait(1 / rate if self._shape.is_even else self._random.expovariate(rate))

    def _client(self) -> Step:
        while True:
            yield from self._turn()

    def _turn(self) -> Step:
        """Accept, dispatch, claim with the history, then a burst after the other to the journal and to the reader."""
        began = self._clock.now
        at, of = self._random.randrange(len(self._gateways)), self._random.randrange(len(self._workers))
        gateway, worker = self._gateways[at], self._workers[of]
        partition = self._random.randrange(self._fleet.partitions)
        costs = self._costs
        yield from self._use(gateway, costs["gateway"].turn_ms / 2)
        yield from self._ask(self._accepting[at])
        yield from self._use(gateway, costs["gateway"].turn_ms / 2)
        yield from self._use(self._rabbitmq, costs["rabbitmq"].turn_ms)
        yield from self._use(worker, costs["chat-worker"].turn_ms / 2)
        yield from self._ask(self._claiming[of])
        yield from self._use(worker, costs["chat-worker"].turn_ms / 2)
        yield Wait(self._elsewhere_seconds)
        for number in range(self._shape.bursts):
            if number:
                yield Wait(self._shape.pause_seconds)
            yield from self._beside(self._fleet.beside_ms / self._shape.bursts)
            yield from self._use(worker, costs["chat-worker"].burst_ms)
            stored = Place(1, inside=1)
            self._lanes[of][partition].waiting.append(partial(self._clock.leave, stored))
            if number in {0, self._shape.bursts - 1}:
                self._leave(self._lanes[of][partition])
            else:
                self._wait_for_tide(self._tides[of], self._lanes[of][partition])
            reading = self._read(gateway, stored, began if number == 0 else None)
            if number < self._shape.bursts - 1:
                self._clock.start(reading)
            else:
                yield from reading
        self._turns += 1

    def _ask(self, together: Together) -> Step:
        """A third of what a turn costs Postgres, along with others of the same process."""
        told = Place(1, inside=1)
        together.waiting.append(told)
        if not together.is_asking:
            together.is_asking = True
            self._clock.start(self._answer(together))
        yield Wait(place=told)

    def _answer(self, together: Together) -> Step:
        cost = self._costs["postgres"]
        while together.waiting:
            asked = [together.waiting.popleft() for _ in range(min(_TOGETHER_MAX, len(together.waiting)))]
            yield from self._use(self._postgres, cost.turn_ms / 3 * len(asked) + cost.commit_ms)
            self._commits += 1
            for told in asked:
                self._clock.leave(told)
        together.is_asking = False

    def _read(self, gateway: Place, stored: Place, began: float | None) -> Step:
        """The reader hears of a burst once it is stored; of the first, note how long after the turn began."""
        yield Wait(place=stored)
        yield from self._use(gateway, self._costs["gateway"].burst_ms)
        if began is not None and began >= self._counts_from:
            self._first.append(self._clock.now - began)

    def _wait_for_tide(self, tide: list[Lane], lane: Lane) -> None:
        """All partitions of a worker leave at the same time, so long after the first of them had something."""
        if not tide:
            self._clock.start(self._turn_tide(tide), _GATHER_SECONDS)
        tide.append(lane)

    def _turn_tide(self, tide: list[Lane]) -> Step:
        lanes = tide.copy()
        tide.clear()
        for lane in lanes:
            self._leave(lane)
        yield from ()

    def _leave(self, lane: Lane) -> None:
        lane.is_due = True
        if not lane.is_sending:
            lane.is_sending = True
            self._clock.start(self._send(lane))

    def _send(self, lane: Lane) -> Step:
        """One message after the other, each with all that waits when the one before is confirmed."""
        while lane.is_due and lane.waiting:
            lane.is_due = False
            message = [lane.waiting.popleft() for _ in range(len(lane.waiting))]
            yield from self._use(self._rabbitmq, self._costs["rabbitmq"].burst_ms * len(message))
            inbox = self._inboxes[lane.partition % len(self._inboxes)]
            inbox.messages.append(message)
            if not inbox.is_writing:
                inbox.is_writing = True
                self._clock.start(self._write(inbox))
            yield from self._use(lane.worker, 0.0)  # which has to see the confirmation
        lane.is_sending = False

    def _write(self, inbox: Inbox) -> Step:
        """Everything that waits is one transaction, and then everything that has come meanwhile."""
        own, postgres, rabbitmq = (self._costs[part] for part in ("persistence", "postgres", "rabbitmq"))
        # Of the turn's own cost, which comes with its bursts.
        own_share, postgres_share = (cost / self._shape.bursts for cost in (own.turn_ms, postgres.turn_ms / 3))
        while inbox.messages:
            batch = [told for _ in range(len(inbox.messages)) for told in inbox.messages.popleft()]
            yield from self._use(inbox.process, (own_share + own.burst_ms) * len(batch) + own.commit_ms)
            yield from self._use(self._postgres, (postgres_share + postgres.burst_ms) * len(batch) + postgres.commit_ms)
            yield from self._use(self._rabbitmq, rabbitmq.commit_ms)
            self._commits += 1
            self._write_backs += 1
            for told in batch:
                told()
        inbox.is_writing = False

    def _use(self, place: Place, milliseconds: float) -> Step:
        """Its process, then a core of its machine, for about so long; and longer where it had nothing to do."""
        if not place.inside:
            place.wakings += 1
            milliseconds += self._costs[place.part].waking_ms
        seconds = 2 * self._random.random() * milliseconds / 1000  # no function of the platform's, so the same anywhere
        yield Wait(place=place)
        if self._machine and not place.has_core:
            yield Wait(place=self._machine)
            place.has_core, place.core_since = place.room == 1, self._clock.now
        yield Wait(seconds)
        place.busy_seconds += seconds
        goes_on = place.has_core and place.waiting and self._clock.now < place.core_since + _SLICE_SECONDS
        if self._machine and not goes_on:
            place.has_core = False
            self._clock.leave(self._machine)
        self._clock.leave(place)

    def _beside(self, milliseconds: float) -> Step:
        """What is none of ours and uses the same machine."""
        if self._machine and milliseconds:
            yield from self._compute(milliseconds / 1000)

    def _compute(self, seconds: float) -> Step:
        if self._machine:
            yield Wait(place=self._machine)
        yield Wait(seconds)
        if self._machine:
            self._clock.leave(self._machine)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What was counted until a moment."""

    turns: int
    commits: int
    write_backs: int
    seconds: Mapping[str, float]
    wakings: Mapping[str, int]

    def since(self, before: "_Counts") -> "_Counts":
        return _Counts(
            self.turns - before.turns,
            self.commits - before.commits,
            self.write_backs - before.write_backs,
            {part: self.seconds[part] - before.seconds[part] for part in PARTS},
            {part: self.wakings[part] - before.wakings[part] for part in PARTS},
        )


def calibrated(fleet: Fleet, costs: Mapping[str, Cost], shape: Shape, first_token_seconds: float) -> float:
    """The waiting that is no CPU: what a turn on an idle machine takes longer than its CPU alone explains."""
    alone = mean(Simulation(fleet, costs, shape, seed=seed).run(10.0, 1.0).first_token_p50 for seed in range(3))
    return max(0.0, first_token_seconds - alone)
