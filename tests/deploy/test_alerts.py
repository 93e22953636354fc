"""The alert rules: understood by Prometheus, about metrics that exist, each with a section that says what to do."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import promql, promtool

_ROOT = Path(__file__).parents[2]
_RULES = _ROOT / "deploy/prometheus/alerts.yml"
_SEVERITIES = {"warning", "critical"}
_LONG = "1900m"
_AT = "40m"  # when alerts are looked at, unless said otherwise; every `for` but those of an hour is over then


def _alerts() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(_RULES.read_text())["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in _alerts()}


def test_an_alert_has_a_name_of_its_own() -> None:
    assert len(ALERTS) == len(list(_alerts()))


@pytest.mark.parametrize("name", ALERTS)
def test_it_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (_ROOT / page).read_text(), re.MULTILINE)

    assert rule["labels"]["severity"] in _SEVERITIES
    assert rule["annotations"]["summary"].endswith(".")
    assert anchor == name.lower()
    assert name in headings


@pytest.mark.parametrize("name", ALERTS)
def test_its_metrics_exist_with_the_labels_that_it_looks_at(name: str) -> None:
    assert list(promql.unknown(ALERTS[name]["expr"])) == []
    # A threshold or a state, not a bare number that is always there.
    assert re.search(r"[<>]|==|absent", ALERTS[name]["expr"])


def test_what_is_unknown_is_found() -> None:
    assert list(promql.unknown('sum by (user) (rate(parley_jobs_total{state="x"}[5m]))')) == [
        "parley_jobs_total",
        "by (user)",
    ]
    assert list(promql.unknown('parley_jobs{user="x"}')) == ["parley_jobs{user}"]
    with pytest.raises(ValueError, match="unclosed"):
        list(promql.unknown("sum(parley_jobs"))


@dataclass(frozen=True)
class Sick:
    """Series under which an alert fires, in promtool's form, and the labels that it then has.

    `missing` are healthy series that are away.
    """

    series: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    at: str = _AT
    beside: tuple[str, ...] = ()  # alerts that are right to fire as well


_PERSISTENCE = '{job="persistence",instance="a"}'
_WORKER = {"job": "chat-worker", "instance": "b"}

# What a system at work tells, minute by minute.
HEALTHY = {
    'up{job="gateway",instance="a"}': "1x100",
    'up{job="rabbitmq",instance="a"}': "1x100",
    'parley_build_info{service="gateway",version="1.0",job="gateway",instance="a"}': "1x100",
    'parley_build_info{service="persistence",version="1.0",job="persistence",instance="a"}': "1x100",
    'parley_build_info{service="task-tools",version="1.0",job="task-tools",instance="a"}': "1x100",
    "parley_oldest_queued_job_age_seconds": "2x100",
    'parley_jobs{state="lease_expired"}': "0x100",
    'parley_jobs{state="queued_due"}': "1x100",
    'parley_gateway_requests_total{status="200"}': "0+600x100",
    'parley_gateway_requests_total{status="500"}': "0+1x100",
    'parley_gateway_rejected_requests_total{reason="invalid_token"}': "0+600x100",
    'parley_gateway_rejected_requests_total{reason="overloaded"}': "0x100",
    'parley_gateway_first_token_seconds_bucket{le="5"}': "0+100x100",
    'parley_gateway_first_token_seconds_bucket{le="15"}': "0+100x100",
    'parley_gateway_first_token_seconds_bucket{le="+Inf"}': "0+100x100",
    'parley_gateway_key_refreshes_total{outcome="failed"}': "0+1x100",
    'parley_gateway_key_refreshes_total{outcome="refreshed"}': "0+1x100",
    'parley_persistence_jobs_ended_total{status="completed"}': "0+100x100",
    'parley_persistence_jobs_ended_total{status="failed"}': "0+1x100",
    'parley_persistence_retries_total{cause="lease_expired"}': "0x100",
    'parley_persistence_retries_total{cause="released"}': "0+10x100",
    'parley_persistence_chunks_total{place="next"}': "0+1000x100",
    'parley_persistence_chunks_total{place="ahead"}': "0x100",
    'parley_persistence_chunks_total{place="fenced"}': "0+1x100",
    'parley_persistence_repairs_total{repair="published_again"}': "0x100",
    "parley_persistence_batch_failures_total": "0x100",
    'parley_persistence_chunk_seconds_bucket{le="0.5"}': "0+1000x100",
    'parley_persistence_chunk_seconds_bucket{le="5"}': "0+1000x100",
    'parley_persistence_chunk_seconds_bucket{le="+Inf"}': "0+1000x100",
    "parley_worker_lease_renewal_failures_total": "0x100",
    'parley_worker_attempts_total{outcome="completed"}': "0+100x100",
    'parley_worker_attempts_total{outcome="released"}': "0+10x100",
    'parley_worker_tool_calls_total{server="tasks",outcome="ok"}': "0+100x100",
    'parley_worker_tool_calls_total{server="tasks",outcome="http_error"}': "0+1x100",
    'parley_model_calls_total{use="answer",outcome="ok"}': "0+100x100",
    'parley_model_calls_total{use="answer",outcome="model_timeout"}': "0+1x100",
    'parley_model_calls_total{use="answer",outcome="model_misconfigured"}': "0x100",
    "parley_dead_letters": "3x100",
    'parley_messages_refused_total{place="chat.jobs",reason="not_json"}': "1x100",
    f'parley_broker_link_up{_PERSISTENCE[:-1]},link="publisher"}}': "1x100",
    'parley_broker_publish_failures_total{exchange="chat.ready"}': "0x100",
    'parley_broker_publish_seconds_bucket{exchange="chat.ready",le="0.1"}': "0+100x100",
    'parley_broker_publish_seconds_bucket{exchange="chat.ready",le="5"}': "0+100x100",
    'parley_broker_publish_seconds_bucket{exchange="chat.ready",le="+Inf"}': "0+100x100",
    'parley_queue_consumers{queue="chat.jobs"}': "2x100",
    'parley_queue_consumers{queue="chat.journal.0"}': "1x100",
    'parley_queue_messages{queue="chat.jobs"}': "5000x100",
    'parley_queue_messages{queue="chat.journal.0"}': "12x100",
    f"parley_database_unavailable_total{_PERSISTENCE}": "2x100",
    f'parley_database_connections{_PERSISTENCE[:-1]},state="used"}}': "3x100",
    f"parley_database_connections_max{_PERSISTENCE}": "10x100",
    f"parley_clock_ahead_seconds{_PERSISTENCE}": "-0.2x100",
    "parley_webhook_overdue_seconds": "0x100",
    "parley_oldest_purge_age_seconds": "60x100",
    'parley_tools_not_accepted{server="tasks"}': "0x100",
    f"parley_process_tasks{_PERSISTENCE}": "60x2000",
    f'parley_process_loop_lag_seconds_bucket{_PERSISTENCE[:-1]},le="0.05"}}': "0+240x100",
    f'parley_process_loop_lag_seconds_bucket{_PERSISTENCE[:-1]},le="0.5"}}': "0+240x100",
    f'parley_process_loop_lag_seconds_bucket{_PERSISTENCE[:-1]},le="+Inf"}}': "0+240x100",
    f"process_start_time_seconds{_PERSISTENCE}": "1000x100",
    f"process_open_fds{_PERSISTENCE}": "100x100",
    f"process_max_fds{_PERSISTENCE}": "1024x100",
    'process_open_fds{job="another",instance="z"}': "1000x100",
    'process_max_fds{job="another",instance="z"}': "1024x100",
    'rabbitmq_alarms_memory_used_watermark{instance="r"}': "0x100",
    'rabbitmq_alarms_free_disk_space_watermark{instance="r"}': "0x100",
    'rabbitmq_disk_space_available_bytes{instance="r"}': "9e10x100",
    'rabbitmq_disk_space_available_limit_bytes{instance="r"}': "2e9x100",
    'rabbitmq_unreachable_cluster_peers_count{instance="r"}': "0x100",
    'probe_ssl_earliest_cert_expiry{instance="https://chat.example"}': "9e9x100",
}

_SICK: dict[str, Sick] = {
    "ParleyJobsWait": Sick({"parley_oldest_queued_job_age_seconds": "45x100"}),
    "ParleyJobsStuck": Sick({"parley_oldest_queued_job_age_seconds": "400x100"}, beside=("ParleyJobsWait",)),
    "ParleyGatewayErrors": Sick({'parley_gateway_requests_total{status="500"}': "0+30x100"}),
    "ParleyGatewayOverloaded": Sick(
        {'parley_gateway_rejected_requests_total{reason="overloaded"}': "0+60x100"}, {"reason": "overloaded"}
    ),
    "ParleyAnswersFail": Sick({'parley_persistence_jobs_ended_total{status="failed"}': "0+20x100"}),
    "ParleyFirstTokenSlow": Sick({'parley_gateway_first_token_seconds_bucket{le="5"}': "0+50x100"}),
    "ParleyLeasesExpired": Sick({'parley_jobs{state="lease_expired"}': "2x100"}),
    "ParleyWorkersFallSilent": Sick({'parley_persistence_retries_total{cause="lease_expired"}': "0+1x100"}),
    "ParleyLeaseRenewalsFail": Sick({"parley_worker_lease_renewal_failures_total": "0+1x100"}),
    "ParleyJobsRepeated": Sick({'parley_worker_attempts_total{outcome="released"}': "0+60x100"}),
    "ParleyEventsLost": Sick({'parley_persistence_chunks_total{place="ahead"}': "0x30 1x70"}, {"place": "ahead"}),
    "ParleyAttemptsFenced": Sick({'parley_persistence_chunks_total{place="fenced"}': "0+10x100"}),
    "ParleyDeadLetters": Sick({"parley_dead_letters": "3x30 4x70"}),
    "ParleyMessagesRefused": Sick(
        {'parley_messages_refused_total{place="chat.jobs",reason="not_json"}': "1x30 2x70"},
        {"place": "chat.jobs", "reason": "not_json"},
    ),
    "ParleyJobsPublishedAgain": Sick({'parley_persistence_repairs_total{repair="published_again"}': "0+5x100"}),
    "ParleyBrokerLinkDown": Sick(
        {f'parley_broker_link_up{_PERSISTENCE[:-1]},link="publisher"}}': "1x30 0x70"},
        {"job": "persistence", "instance": "a", "link": "publisher"},
    ),
    "ParleyNoWorker": Sick({'parley_queue_consumers{queue="chat.jobs"}': "0x100"}),
    "ParleyQueueWithoutConsumer": Sick(
        {'parley_queue_consumers{queue="chat.journal.0"}': "0x100"}, {"queue": "chat.journal.0"}
    ),
    "ParleyJournalBehind": Sick(
        {'parley_queue_messages{queue="chat.journal.0"}': "9000x100"}, {"queue": "chat.journal.0"}
    ),
    "ParleyConfirmsSlow": Sick(
        {'parley_broker_publish_seconds_bucket{exchange="chat.ready",le="0.1"}': "0+50x100"}, {"exchange": "chat.ready"}
    ),
    "ParleyPublishingFails": Sick(
        {'parley_broker_publish_failures_total{exchange="chat.ready"}': "0+60x100"}, {"exchange": "chat.ready"}
    ),
    "RabbitMQMemoryAlarm": Sick({'rabbitmq_alarms_memory_used_watermark{instance="r"}': "1x100"}, {"instance": "r"}),
    "RabbitMQDiskAlarm": Sick({'rabbitmq_alarms_free_disk_space_watermark{instance="r"}': "1x100"}, {"instance": "r"}),
    "RabbitMQDiskLow": Sick({'rabbitmq_disk_space_available_bytes{instance="r"}': "4e9x100"}, {"instance": "r"}),
    "RabbitMQNodesApart": Sick({'rabbitmq_unreachable_cluster_peers_count{instance="r"}': "1x100"}, {"instance": "r"}),
    "ParleyDatabaseUnavailable": Sick(
        {f"parley_database_unavailable_total{_PERSISTENCE}": "0+30x100"}, {"job": "persistence", "instance": "a"}
    ),
    "ParleyDatabasePoolFull": Sick(
        {f'parley_database_connections{_PERSISTENCE[:-1]},state="used"}}': "10x100"},
        {"job": "persistence", "instance": "a"},
    ),
    "ParleyBatchesFail": Sick({"parley_persistence_batch_failures_total": "0+1x100"}),
    "ParleyWriteBackSlow": Sick({'parley_persistence_chunk_seconds_bucket{le="0.5"}': "0+900x100"}),
    "ParleyClocksApart": Sick(
        {f"parley_clock_ahead_seconds{_PERSISTENCE}": "-12x100"}, {"job": "persistence", "instance": "a"}
    ),
    "ParleyStateUnknown": Sick(missing=("parley_queue_messages",)),
    "ParleyModelFails": Sick(
        {'parley_model_calls_total{use="answer",outcome="model_timeout"}': "0+30x100"}, {"use": "answer"}
    ),
    "ParleyModelMisconfigured": Sick(
        {'parley_model_calls_total{use="answer",outcome="model_misconfigured"}': "0+1x100"}
    ),
    "ParleyToolsFail": Sick(
        {'parley_worker_tool_calls_total{server="tasks",outcome="http_error"}': "0+30x100"}, {"server": "tasks"}
    ),
    "ParleyToolsChanged": Sick({'parley_tools_not_accepted{server="tasks"}': "1x100"}, {"server": "tasks"}),
    "ParleyWebhooksOverdue": Sick({"parley_webhook_overdue_seconds": "90x100"}),
    "ParleyPurgeOverdue": Sick({"parley_oldest_purge_age_seconds": "90000x100"}),
    "ParleyTargetDown": Sick({'up{job="gateway",instance="a"}': "0x100"}, {"job": "gateway", "instance": "a"}),
    "ParleyServiceMissing": Sick(
        labels={"service": "persistence"}, missing=('parley_build_info{service="persistence"',)
    ),
    "ParleyRestarts": Sick(
        {f"process_start_time_seconds{_PERSISTENCE}": "0+100x100"}, {"job": "persistence", "instance": "a"}
    ),
    "ParleyLoopLags": Sick(
        {f'parley_process_loop_lag_seconds_bucket{_PERSISTENCE[:-1]},le="0.05"}}': "0+120x100"},
        {"job": "persistence", "instance": "a"},
    ),
    "ParleyFilesRunOut": Sick({f"process_open_fds{_PERSISTENCE}": "1000x100"}, {"job": "persistence", "instance": "a"}),
    "ParleyTasksLeak": Sick(
        {f"parley_process_tasks{_PERSISTENCE}": "300x1000 700x1000"},
        {"job": "persistence", "instance": "a"},
        at=_LONG,
    ),
    "ParleyVersionsMixed": Sick(
        {'parley_build_info{service="chat-worker",version="1.1",job="chat-worker",instance="b"}': "1x100"}, at="70m"
    ),
    "ParleyKeysStale": Sick({'parley_gateway_key_refreshes_total{outcome="refreshed"}': "5x100"}),
    "ParleyCertificateExpires": Sick(
        {'probe_ssl_earliest_cert_expiry{instance="https://chat.example"}': "90000x100"},
        {"instance": "https://chat.example"},
        at="70m",
    ),
}


def test_every_alert_is_seen_to_fire() -> None:
    assert _SICK.keys() == ALERTS.keys()


def test_each_fires_when_it_should_and_no_other_does(tmp_path: Path) -> None:
    """As Prometheus evaluates them: nothing of a healthy system, and of each illness its own."""
    tests = [_test(Sick(), set()), *(_test(sick, {name, *sick.beside}) for name, sick in _SICK.items())]
    files = []
    # What takes days is looked at less often, or it would take long here too.
    for interval, some in (("1m", tests), ("30m", tests)):
        chosen = [test for test in some if (test["alert_rule_test"][0]["eval_time"] == _LONG) == (interval != "1m")]
        files.append(tmp_path / f"every_{interval}.yml")
        content = {"rule_files": [str(_RULES)], "evaluation_interval": interval, "tests": chosen}
        files[-1].write_text(yaml.safe_dump(content))

    promtool.run("check", "rules", _RULES)
    promtool.run("test", "rules", *files)


def _test(sick: Sick, firing: set[str]) -> dict[str, Any]:
    healthy = {name: values for name, values in HEALTHY.items() if not name.startswith(sick.missing or "-")}
    names = set(ALERTS) if sick.at == _AT else set(firing)  # most healthy series have ended by a later time
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in {**healthy, **sick.series}.items()],
        "alert_rule_test": [
            {"eval_time": sick.at, "alertname": name, "exp_alerts": [_fired(name, sick)] if name in firing else []}
            for name in sorted(names)
        ],
    }


def _fired(name: str, sick: Sick) -> dict[str, Any]:
    rule = ALERTS[name]
    return {"exp_labels": {**rule["labels"], **sick.labels}, "exp_annotations": rule["annotations"]}
