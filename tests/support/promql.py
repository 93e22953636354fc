"""What expressions of alerts and dashboards ask for, and whether anybody tells it."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import promql_parser

_METRICS = Path(__file__).parents[2] / "docs/metrics.md"
_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<type>[a-z]+) \| (?P<labels>[^|]*)\|", re.MULTILINE)
_SCRAPED = {"job", "instance"}  # Prometheus adds these itself

# Of others: RabbitMQ's plugin rabbitmq_prometheus (3.10 tells all but the unreachable peers, 4.x all), Prometheus
# itself, and its blackbox exporter.
FOREIGN: Mapping[str, frozenset[str]] = {
    "rabbitmq_alarms_free_disk_space_watermark": frozenset(),
    "rabbitmq_alarms_memory_used_watermark": frozenset(),
    "rabbitmq_connections": frozenset(),
    "rabbitmq_disk_space_available_bytes": frozenset(),
    "rabbitmq_disk_space_available_limit_bytes": frozenset(),
    "rabbitmq_process_resident_memory_bytes": frozenset(),
    "rabbitmq_resident_memory_limit_bytes": frozenset(),
    "rabbitmq_unreachable_cluster_peers_count": frozenset(),
    "up": frozenset(),
    "probe_ssl_earliest_cert_expiry": frozenset(),
}


@dataclass(frozen=True)
class Selected:
    """A metric that an expression names, with the labels that it looks at."""

    metric: str
    labels: frozenset[str]


def told() -> dict[str, frozenset[str]]:
    """The labels of each series that docs/metrics.md promises, by its name; a histogram is three."""
    found: dict[str, frozenset[str]] = {}
    for row in _ROW.finditer(_METRICS.read_text()):
        labels = frozenset(re.findall(r"`([a-z_]+)`", row["labels"]))
        if row["type"] == "histogram":
            found[f"{row['name']}_bucket"] = labels | {"le"}
            found |= dict.fromkeys((f"{row['name']}_sum", f"{row['name']}_count"), labels)
        else:
            found[row["name"]] = labels
    assert len(found) > 50, "the tables of docs/metrics.md look different now"
    return found


def selected(expression: str) -> list[Selected]:
    """Every metric of `expression`. Raises ValueError where Prometheus would not understand it."""
    found: list[Selected] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, "names its metric"
            matchers = [*node.matchers.matchers, *(each for some in node.matchers.or_matchers for each in some)]
            found.append(Selected(node.name, frozenset(matcher.name for matcher in matchers)))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def rising(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The series whose `increase` is asked for, with the labels that they must have: each choice is one."""
    calls: list[promql_parser.Call] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.Call) and node.func.name == "increase":
            calls.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    for call in calls:
        selector = call.args[0].vector_selector
        assert selector.name, "names its metric"
        choices = [[(each.name, value) for value in each.value.split("|")] for each in selector.matchers.matchers]
        yield from ((selector.name, dict(chosen)) for chosen in itertools.product(*choices))


def grouped(expression: str) -> set[str]:
    """The labels by which `expression` groups or joins anywhere."""
    found: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            found.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def unknown(expression: str) -> Iterator[str]:
    """What of `expression` nobody tells: metrics, or labels of them."""
    catalogue = {**told(), **FOREIGN}
    metrics = {each.metric for each in selected(expression)}
    for each in selected(expression):
        if each.metric not in catalogue:
            yield each.metric
        else:
            yield from (f"{each.metric}{{{label}}}" for label in each.labels - catalogue[each.metric] - _SCRAPED)
    somewhere = frozenset().union(*(catalogue.get(metric, frozenset()) for metric in metrics))
    yield from (f"by ({label})" for label in grouped(expression) - somewhere - _SCRAPED)
