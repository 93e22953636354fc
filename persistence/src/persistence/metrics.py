"""`/metrics`: what this process counts, and the state of the whole system, as every replica sees it.

Of the former take the sum over replicas, of the latter the maximum.
"""

import asyncio
import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from persistence import overview, tool_pins
from persistence.overview import DeadLetters, OpenJobs, OpenPurges, OpenState, Queue, Webhooks
from persistence.tool_pins import ServerChanges
from shared.db import Database
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.messaging import Publisher
from shared.metrics import text_of

_FRESH_SECONDS = 5.0  # however many scrape, the servers are asked no more often
_ASK_SECONDS_MAX = 3.0


class Metrics:
    """What `overview` sees. While a server is away its numbers are left out: old ones would look like good ones."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._families: list[Metric] = []
        self._seen_at = -_FRESH_SECONDS
        self._looking = asyncio.Lock()

    async def text(self) -> bytes:
        """The text that Prometheus scrapes."""
        async with self._looking:
            if time.monotonic() - self._seen_at >= _FRESH_SECONDS:
                self._families = [*await self._of_database(), *await self._of_broker()]
                self._seen_at = time.monotonic()
            return text_of(self._families)

    async def _of_database(self) -> list[Metric]:
        try:
            async with asyncio.timeout(_ASK_SECONDS_MAX), self._database.transaction(None) as connection:
                jobs = await overview.open_jobs(connection)
                dead_letters = await overview.dead_letters(connection)
                unindexed_count = await overview.unindexed_messages(connection)
                purges = await overview.purges(connection)
                webhooks = await overview.webhooks(connection)
                tool_changes = await tool_pins.changes(connection)
        except (DatabaseUnavailableError, TimeoutError):
            return []
        return [
            *_of_jobs(jobs),
            *_of_dead_letters(dead_letters),
            _of_search(unindexed_count),
            *_of_purges(purges),
            *_of_webhooks(webhooks),
            *_of_tools(tool_changes),
        ]

    async def _of_broker(self) -> list[Metric]:
        try:
            async with asyncio.timeout(_ASK_SECONDS_MAX):
                return list(_of_queues(await overview.queues(self._publisher)))
        except (BrokerUnavailableError, TimeoutError):
            return []


def _of_jobs(jobs: list[OpenJobs]) -> Iterator[Metric]:
    counts = GaugeMetricFamily("parley_jobs", "Jobs that did not end, by what they wait for.", labels=["state"])
    ages = GaugeMetricFamily("parley_oldest_job_age_seconds", "Age of the oldest of them; 0: none.", labels=["state"])
    due = GaugeMetricFamily(
        "parley_oldest_queued_job_age_seconds", "How long the oldest job that may run waits for a worker; 0: none."
    )
    for state in jobs:
        counts.add_metric([state.state.value], state.count)
        ages.add_metric([state.state.value], state.oldest_seconds)
        if state.state is OpenState.QUEUED_DUE:
            due.add_metric([], state.oldest_seconds)
    yield from (counts, ages, due)


def _of_dead_letters(dead_letters: list[DeadLetters]) -> Iterator[Metric]:
    total = GaugeMetricFamily("parley_dead_letters", "Messages that were thrown out and are on record.")
    total.add_metric([], sum(letters.count for letters in dead_letters))
    labels = ["queue", "reason", "kind"]
    counts = GaugeMetricFamily("parley_dead_letters_by_cause", "The same, by where they come from.", labels=labels)
    ages = GaugeMetricFamily("parley_latest_dead_letter_age_seconds", "Age of the latest of them.", labels=labels)
    for letters in dead_letters:
        cause = [letters.queue, letters.reason, letters.kind]
        counts.add_metric(cause, letters.count)
        ages.add_metric(cause, letters.latest_seconds)
    yield from (total, counts, ages)


def _of_search(unindexed_count: int) -> Metric:
    family = GaugeMetricFamily("parley_unindexed_messages", "Messages that the search's index does not have yet.")
    family.add_metric([], unindexed_count)
    return family


def _of_purges(purges: OpenPurges) -> Iterator[Metric]:
    for name, text, value in (
        ("parley_purges_open", "Users whose data are being deleted.", purges.count),
        ("parley_oldest_purge_age_seconds", "Since when the first of them waits; 0: none.", purges.oldest_seconds),
    ):
        family = GaugeMetricFamily(name, text)
        family.add_metric([], value)
        yield family


def _of_webhooks(webhooks: Webhooks) -> Iterator[Metric]:
    for name, text, value in (
        ("parley_webhook_deliveries_waiting", "Deliveries to be attempted, now or later.", webhooks.waiting_count),
        ("parley_webhook_overdue_seconds", "How long one that is due waits for a sender.", webhooks.overdue_seconds),
        ("parley_webhook_endpoints_disabled", "Endpoints that failed too long.", webhooks.disabled_endpoint_count),
    ):
        family = GaugeMetricFamily(name, text)
        family.add_metric([], value)
        yield family


def _of_tools(servers: list[ServerChanges]) -> Iterator[Metric]:
    changes = CounterMetricFamily(
        "parley_tool_changes", "How often a server said something else of a tool than was accepted.", labels=["server"]
    )
    waiting = GaugeMetricFamily(
        "parley_tools_not_accepted", "Tools that are not as they were accepted.", labels=["server"]
    )
    for server in servers:
        changes.add_metric([server.server], server.change_count)
        waiting.add_metric([server.server], server.waiting_count)
    yield from (changes, waiting)


def _of_queues(queues: list[Queue]) -> Iterator[Metric]:
    messages = GaugeMetricFamily(
        "parley_queue_messages", "Messages that are ready, without those that a consumer holds.", labels=["queue"]
    )
    consumers = GaugeMetricFamily("parley_queue_consumers", "Consumers, active or waiting.", labels=["queue"])
    for queue in queues:
        messages.add_metric([queue.name], queue.message_count)
        consumers.add_metric([queue.name], queue.consumer_count)
    yield from (messages, consumers)
