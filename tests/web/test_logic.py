"""What of the page needs no browser has its tests beside it, in its own language."""

import pytest

from deploy.local import web
from deploy.local.places import Places
from deploy.local.terminal import Failure


def test_the_reducer_of_events_and_what_else_is_pure_does_what_its_tests_say() -> None:
    try:
        web.install(Places.of())
    except Failure as failure:
        pytest.skip(f"the page's packages cannot be installed: {failure}")
    web.run_script(Places.of(), "test")
