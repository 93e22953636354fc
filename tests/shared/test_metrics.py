"""Counting is cheap and bounded; what is told is what Prometheus reads."""

import math
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import metrics
from shared.ids import uuid7
from shared.metrics import SERIES_MAX, Counter, Gauge, Histogram, text_of, value


@pytest.fixture
def name() -> Iterator[str]:
    """Of a metric of the test's own, which is forgotten afterwards."""
    known = list(metrics._metrics)  # noqa: SLF001
    yield f"test_{uuid7().hex}"
    metrics._metrics[:] = known  # noqa: SLF001


def told() -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text_of().decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


async def test_a_counter_without_labels_is_told_before_it_counts(name: str) -> None:
    counter = Counter(name, "text")

    assert told()[f"{name}_total"] == {(): 0}
    counter.inc()
    counter.inc(2)

    assert told()[f"{name}_total"] == {(): 3}
    assert value(f"{name}_total") == 3


async def test_series_are_told_by_their_labels(name: str) -> None:
    counter = Counter(name, "text", ["one", "other"])

    counter.labels("a", "b").inc()
    counter.labels("a", "c").inc(5)

    assert told()[f"{name}_total"] == {(("one", "a"), ("other", "b")): 1, (("one", "a"), ("other", "c")): 5}
    assert value(f"{name}_total", one="a", other="c") == 5


async def test_what_would_be_one_series_too_many_counts_as_other(name: str) -> None:
    counter = Counter(name, "text", ["a", "b"])

    for number in range(SERIES_MAX + 10):
        counter.labels(str(number), "x").inc()

    samples = told()[f"{name}_total"]
    assert len(samples) == SERIES_MAX + 1
    assert samples[("a", "other"), ("b", "other")] == 10
    assert sum(samples.values()) == SERIES_MAX + 10


async def test_a_gauge_rises_falls_and_asks_its_sources(name: str) -> None:
    gauge = Gauge(name, "text")

    gauge.inc(5)
    gauge.dec()
    stop = gauge.labels().follow(lambda: 10)

    assert told()[name] == {(): 14}
    stop()
    stop()
    assert told()[name] == {(): 4}


@pytest.mark.parametrize(("seen", "bucket"), [(0, "0.1"), (0.1, "0.1"), (0.11, "1.0"), (1, "1.0"), (7, "+Inf")])
async def test_a_value_counts_in_its_bucket_and_all_larger_ones(name: str, seen: float, bucket: str) -> None:
    histogram = Histogram(name, "text", bounds=(0.1, 1))

    histogram.observe(seen)

    buckets = {dict(labels)["le"]: count for labels, count in told()[f"{name}_bucket"].items()}
    assert list(buckets) == ["0.1", "1.0", "+Inf"]
    assert [bound for bound, count in buckets.items() if count] == list(buckets)[list(buckets).index(bucket) :]
    assert told()[f"{name}_count"] == {(): 1}
    assert math.isclose(told()[f"{name}_sum"][()], seen)


async def test_the_process_itself_is_told_of() -> None:
    samples = told()

    assert samples["process_resident_memory_bytes"][()] > 0
    assert samples["parley_process_tasks"][()] >= 1
