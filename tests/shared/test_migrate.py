"""Migrations: what several of them at once do to each other."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from tests.support.backends import new_database


async def test_two_databases_of_one_server_are_migrated_at_the_same_time() -> None:
    """The roles are those of the server, so both change the same ones."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as threads:
        made = await asyncio.gather(*(loop.run_in_executor(threads, _make_and_drop) for _ in range(2)))

    assert all(len(urls) == 5 for urls in made)


def _make_and_drop() -> dict[str, str]:
    with new_database() as urls:
        return urls
