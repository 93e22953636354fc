"""Many tenants at once, whose readers leave anywhere while connections break: nobody is shown a word of another's."""

import random
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backends, new_backends
from tests.system.crosstalk.soak import Field, watched_field
from tests.system.crosstalk.tenants import Tenant
from tests.system.crosstalk.watch import Canaries, Watch
from tests.system.crosstalk.wire import Leave, Proxy

_SEED = secrets.randbelow(10**9)


@pytest.fixture(scope="module")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="module")
async def field(own_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    folder: Path = tmp_path_factory.mktemp("cross-talk")
    async with watched_field(own_backends, folder) as field:
        yield field


async def test_no_tenant_sees_a_word_of_another(field: Field) -> None:
    report = await field.run(users=40, seconds=20, seed=_SEED)

    print(f"seed {_SEED}\n{report}")  # noqa: T201 - what was done, and what plays it again
    assert report.found == []
    assert len(report.byte_counts) == 7, "everything was searched"
    assert report.own_count > 300
    assert report.counts["connections used again"] > 100


async def test_a_connection_that_is_handed_on_with_its_unread_answer_is_seen(field: Field) -> None:
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    watch = Watch(Canaries("handover"))
    ada, grace = (Tenant(number, watch.canaries, chance, "http://127.0.0.1") for number in (0, 1))
    proxy = Proxy([field.stack.gateway().url], chance, is_broken=True)

    await proxy.carry([ada.who_am_i()], Leave("right after the request", seconds=0))
    question = grace.who_am_i()
    [reply] = await proxy.carry([question])
    await proxy.close()
    watch.shown(grace.number, question.what, reply.head + reply.body)
    watch.named(grace.number, question.what, bytes(reply.body))

    assert proxy.counts["connections"] == 1
    assert watch.found == [
        f"{grace.user_id} was shown by GET /session a word of {ada.user_id}",
        f"{grace.user_id} was told nothing of who they are by GET /session",
    ]


def test_a_foreign_word_is_seen_wherever_it_is() -> None:
    canaries = Canaries("planted")
    watch = Watch(canaries)
    ada, grace = canaries.name(0), canaries.name(1)
    own, foreign = canaries.word(1, "title").encode(), canaries.word(0, "title").capitalize().encode()
    wire_id = b"resp_0199c3f2a4d87b3f8e5d2c1b0a998877"

    for word in (own, b"nothing"):
        watch.shown(1, "GET /v1/files", word)
        watch.called(grace, word)
        watch.asked(word)
        watch.stored(grace, "tasks", word)
    watch.logged("gateway-0", f'{{"user_id": "{grace}"}}'.encode())
    watch.measured("gateway-0", b"requests_total 3")
    watch.shown(0, "POST /v1/responses", wire_id)
    assert watch.found == []
    assert watch.own_count == 3

    watch.shown(1, "GET /v1/files", own + foreign)
    watch.shown(1, "GET /session", ada.encode())
    watch.shown(1, "GET /v1/responses", wire_id)
    watch.called(grace, own + foreign)
    watch.asked(own + foreign)
    watch.stored(grace, "tasks", foreign)
    watch.logged("gateway-0", own)
    watch.measured("gateway-0", grace.encode())
    assert watch.found == [
        f"{grace} was shown by GET /v1/files a word of {ada}",
        f"{grace} was shown by GET /session a word of {ada}",
        f"{grace} was shown by GET /v1/responses {wire_id.decode()}, an id of {ada}",
        f"a tool server was told as {grace}, or told a word of {ada}",
        f"the model was told for {ada} a word of {grace}",
        f"a row of tasks of {grace} holds a word of {ada}",
        f"the log of gateway-0 has a word of {grace}",
        f"the metrics of gateway-0 have a word of {grace}",
    ]
