"""What counting and tracing cost where everybody passes: CPU nanoseconds of one call each, off and on.

    python -m bench.hooks

The process's CPU time, not the clock: the best of five rounds.
"""

import logging
import os
import sys
import time
import timeit
from collections.abc import Callable
from itertools import count

from gateway.metrics import SentEvents
from shared import tracing
from shared.ids import uuid7
from shared.metrics import FAST_SECONDS, Counter, Histogram
from shared.settings import ServiceSettings

_ROUNDS = 5
_NOWHERE = "http://127.0.0.1:9"  # nobody listens to the port for discarded things
_names = (f"bench_{number}" for number in count())


def main() -> None:
    logging.disable()
    counter, labelled = Counter(next(_names), ""), Counter(next(_names), "", ["label"])
    histogram = Histogram(next(_names), "", bounds=FAST_SECONDS)
    sent, batch = SentEvents(), [b'{"type":"response.output_text.delta","sequence_number":1}'] * 4
    _tell("a call of nothing", lambda: None)
    _tell("count", counter.inc)
    _tell("count by a label", lambda: labelled.labels("a").inc())
    _tell("observe", lambda: histogram.observe(0.03))
    _tell("a stream's batch of 4 events (gateway)", lambda: sent.add(batch))
    _tell("traces off: whether they are on", tracing.is_on)
    _tell("traces off: a span", _span)
    os.environ |= {"OTEL_BSP_MAX_QUEUE_SIZE": "100000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"}
    os.environ |= {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}  # what sending costs is not of the one who records
    for part, what in ((0.0, "not chosen"), (1.0, "recorded")):
        with tracing.traced("gateway", ServiceSettings(otlp_endpoint=_NOWHERE, traces_sampler_arg=part)):
            _tell(f"traces on: a span, {what}", _span, times=3_000)


_JOB_ID = uuid7()


def _span() -> None:
    with tracing.start("process", tracing.Kind.CONSUMER, {"a": 1, "b": "b"}, parent=tracing.response(_JOB_ID)) as span:
        span.set("c", 2)


def _tell(what: str, call: Callable[[], object], times: int = 300_000) -> None:
    rounds = timeit.repeat(call, number=times, repeat=_ROUNDS, timer=time.process_time)
    sys.stdout.write(f"{what:42} {min(rounds) / times * 1e9:10.0f} ns\n")


if __name__ == "__main__":
    main()
