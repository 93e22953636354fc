"""Logs, one event per line, with the ids that join the life of a job across processes.

The event name is a constant in snake_case; data go into fields: ids and numbers, never message text, never secrets.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Protocol, cast

import structlog

from shared.settings import LogFormat, ServiceSettings

# They write a traceback for every lost connection, which `shared.messaging` tells in a line, or quote what they read.
_TALKATIVE = ("aio_pika", "aiormq", "mcp")


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
        _with_response_id,
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


def _with_response_id(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Whoever asks about a response has its id as on the wire, of which the trace's id is the end."""
    job_id = fields.get("job_id")
    if job_id is not None:
        fields["response_id"] = f"resp_{job_id.replace('-', '')}"
    return fields


# Bound once at the edge of a request or a job; every line logged inside carries them.
bound_ids = structlog.contextvars.bound_contextvars
# The same, for the rest of a request, whose edge unbinds what was bound within it.
bind_ids = structlog.contextvars.bind_contextvars
unbind_ids = structlog.contextvars.unbind_contextvars
