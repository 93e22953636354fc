"""What a process counts of itself, and the text in which Prometheus scrapes it. `docs/metrics.md` names every metric.

Made for the hot path: counting is an addition to a number, and all else is done when somebody scrapes. Everything runs
on the process's one event loop, so nothing is locked.

No label may hold what a user chose, or an id. A metric has so many series and no more, whatever happens: what would be
another one counts in that whose labels are all `other`.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import accumulate
from typing import Any, ClassVar, Generic, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
SERIES_MAX = 1_000  # of one metric
OTHER = "other"

# For what takes from a millisecond to a minute, and for what a model or a whole answer takes.
FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
SLOW_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_LAG_SECONDS = 0.25  # between two looks at the clock

_metrics: list["_Metric[Any]"] = []
_of_process = ProcessCollector(registry=None)


class Number:
    """One series of a counter or a gauge."""

    __slots__ = ("_sources", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self._sources: list[Callable[[], float]] = []

    def inc(self, count: float = 1) -> None:
        self.value += count

    def dec(self, count: float = 1) -> None:
        self.value -= count

    def set(self, value: float) -> None:
        self.value = value

    def follow(self, source: Callable[[], float]) -> Callable[[], None]:
        """Ask `source` at every scrape, and add what it says, until what is returned here is called."""
        self._sources.append(source)

        def stop() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return stop

    def read(self) -> float:
        return self.value + sum(source() for source in self._sources)


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: how many were at most so large."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


SeriesT = TypeVar("SeriesT", Number, Distribution)


class _Metric(Generic[SeriesT]):
    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._text = text
        self._label_names = tuple(labels)
        self._series: dict[tuple[str, ...], SeriesT] = {}
        if not labels:
            self.labels()  # told as 0 from the start
        _metrics.append(self)

    def labels(self, *values: str) -> SeriesT:
        """The series with these labels, in the order of their names."""
        series = self._series.get(values)
        return self._added(values) if series is None else series

    def _added(self, values: tuple[str, ...]) -> SeriesT:
        assert len(values) == len(self._label_names), self.name
        if len(self._series) >= SERIES_MAX:
            values = (OTHER,) * len(values)
        return self._series.setdefault(values, self._new())

    def _new(self) -> SeriesT:
        raise NotImplementedError

    def family(self) -> Metric:
        raise NotImplementedError


class _Numbers(_Metric[Number]):
    _kind: ClassVar[type[CounterMetricFamily | GaugeMetricFamily]]

    def _new(self) -> Number:
        return Number()

    def family(self) -> Metric:
        family = self._kind(self.name, self._text, labels=self._label_names)
        for values, series in self._series.items():
            family.add_metric(values, series.read())
        return family


class Counter(_Numbers):
    """Only rises. Prometheus knows it by its name and `_total`.

    `known` series are told as 0 from the start: one that appears with its first count has not risen, for Prometheus, so
    that no alert on what rises would see that first one.
    """

    _kind = CounterMetricFamily

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), *, known: Iterable[Sequence[str]] = ()
    ) -> None:
        super().__init__(name, text, labels)
        for values in known:
            self.labels(*values)

    def inc(self, count: float = 1) -> None:
        """Of one that has no labels."""
        self._series[()].value += count


class Gauge(_Numbers):
    """Rises and falls."""

    _kind = GaugeMetricFamily

    def inc(self, count: float = 1) -> None:
        """Of one that has no labels."""
        self._series[()].value += count

    def dec(self, count: float = 1) -> None:
        """Of one that has no labels."""
        self._series[()].value -= count

    def set(self, value: float) -> None:
        """Of one that has no labels."""
        self._series[()].value = value


class Histogram(_Metric[Distribution]):
    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        super().__init__(name, text, labels)

    def observe(self, value: float) -> None:
        """Of one that has no labels."""
        self._series[()].observe(value)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self._text, labels=self._label_names)
        for values, series in self._series.items():
            family.add_metric(values, series.buckets(), series.sum)
        return family


_BUILD = Gauge("parley_build_info", "Always 1; the labels tell what runs.", ["service", "version"])
_TASKS = Gauge("parley_process_tasks", "Tasks of the event loop: more and more of them at rest are a leak.")
_LOOP_LAG = Histogram(
    "parley_process_loop_lag_seconds",
    "How late the event loop came to something that was due: everybody waited as long.",
    bounds=(0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
_REFUSED_MESSAGES = Counter(
    "parley_messages_refused",
    "Messages of the broker that were refused, by where they came and why.",
    ["place", "reason"],
)


def name_process(service: str) -> None:
    """Tell what runs here."""
    _BUILD.labels(service, version(f"parley-{service}")).set(1)


def count_refused_message(place: str, reason: str, count: int = 1) -> None:
    """One more message of the broker that is not what it should be; both words are ours, so there are few."""
    _REFUSED_MESSAGES.labels(place, reason).inc(count)


async def watch_loop() -> None:
    """Measure how late the event loop is, until cancelled."""
    with suppress(asyncio.CancelledError):
        while True:
            due_at = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            _LOOP_LAG.observe(max(0.0, time.monotonic() - due_at))


def text_of(more: Iterable[Metric] = ()) -> bytes:
    """Everything that the process tells, and `more`, for `GET /metrics`; to be called on its event loop."""
    _TASKS.set(len(asyncio.all_tasks()))
    return generate_latest(_Told([*(metric.family() for metric in _metrics), *_of_process.collect(), *more]))


def value(sample: str, **labels: str) -> float:
    """What is told of one sample, such as `parley_jobs_total` or `…_seconds_sum`; 0 where nothing is."""
    for family in (metric.family() for metric in _metrics):
        for found in family.samples:
            if found.name == sample and found.labels == labels:
                return found.value
    return 0.0


class _Told(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
