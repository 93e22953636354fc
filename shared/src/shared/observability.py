"""Logs, one event per line, with the ids that join the life of a job across processes; what a process tells of itself.

The event name is a constant in snake_case; data go into fields: ids and numbers, never message text, never secrets.
"""

import asyncio
import logging
import sys
from collections import Counter
from typing import Any, Protocol, cast

import structlog

from shared.settings import LogFormat, ServiceSettings

# They write a traceback for every lost connection, which `shared.messaging` tells in a line, or quote what they read.
_TALKATIVE = ("aio_pika", "aiormq", "mcp")


# The form in which Prometheus scrapes.
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Logger(Protocol):
    def debug(self, event: str, **fields: Any) -> None: ...
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...
    def exception(self, event: str, **fields: Any) -> None: ...


def get_logger() -> Logger:
    return cast("Logger", structlog.get_logger())


def configure_logging(service: str, settings: ServiceSettings) -> None:
    """Send our logs and those of the libraries to stderr in one form. Call once, before anything else."""
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format is LogFormat.JSON
        # The default formatter shows local variables: message texts, secrets; and takes seconds for it.
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*before, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.contextvars.bind_contextvars(service=service)


# Bound once at the edge of a request or a job; every line logged inside carries them.
bound_ids = structlog.contextvars.bound_contextvars


_refused_messages: Counter[tuple[str, str]] = Counter()


def count_refused_message(place: str, reason: str) -> None:
    """One more message of the broker that is not what it should be; both words are ours, so there are few."""
    _refused_messages[place, reason] += 1


def process_metrics() -> bytes:
    """What every service tells at `/metrics` of its own process; to be called on its event loop."""
    refused = b"".join(
        b'parley_messages_refused_total{place="%s",reason="%s"} %d\n' % (place.encode(), reason.encode(), count)
        for (place, reason), count in sorted(_refused_messages.items())
    )
    return (
        b"# HELP parley_process_tasks Tasks of the process's event loop: more and more of them at rest are a leak.\n"
        b"# TYPE parley_process_tasks gauge\n"
        b"parley_process_tasks %d\n"
        b"# HELP parley_messages_refused_total Messages of the broker that were refused, by where they came and why.\n"
        b"# TYPE parley_messages_refused_total counter\n"
        b"%b" % (len(asyncio.all_tasks()), refused)
    )
