"""What every test may ask for. Real services only; `./dev test` puts their addresses into the environment."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.backends import new_broker, new_database

hypothesis.settings.register_profile("parley", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("parley")


@pytest.fixture(scope="module")
def database_urls() -> Iterator[dict[str, str]]:
    """URLs of a freshly migrated database, a test file's own: `owner`, and one per role (`parley_gateway` …)."""
    with new_database() as urls:
        yield urls


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """The URL of a virtual host of the tests' own."""
    with new_broker() as url:
        yield url
