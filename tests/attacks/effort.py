"""How long to attack: a few seconds in every run of the tests, and `ATTACK_SECONDS` where that is set."""

import os

from hypothesis import HealthCheck, settings

_WANTED = os.environ.get("ATTACK_SECONDS")

IS_LONG = _WANTED is not None
SECONDS = int(_WANTED or 8)  # of a test that goes by the clock
effort = settings(
    max_examples=max(30, 20 * SECONDS) if IS_LONG else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
