"""Titles by the model: when one is asked for, what is made of its answer, and that nothing waits for it."""

import asyncio
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_worker.agent.loop import TurnLimits
from chat_worker.agent.prompt import PromptLimits
from chat_worker.agent.values import Finish, Model, ModelRequest, ModelRound, ReasoningDelta, TextDelta, Usage
from chat_worker.runner import Runner, Verdict, Worker
from chat_worker.titles import Opening, TitleLimits, Titles, clean_title
from gateway.items import Role, text_message
from gateway.turns import Acceptance, Accepted, AcceptLimits, Turn
from shared.contracts import TitleSuggested, decode
from shared.errors import ModelUnavailableError
from shared.ids import uuid7
from tests.support.attempts import RUNNER_LIMITS, USER, Bench, Round, ScriptedTools, forever, said, says
from tests.support.waiting import wait_until

LIMITS = TitleLimits(count_max=1, seconds_max=10, token_count_max=50)


@dataclass
class Titling:
    """A model that answers requests for a title with `title`, all others with `answer`, and remembers the former."""

    title: Round = field(default_factory=lambda: says('"Milk and **bread**"'))
    answer: Round = field(default_factory=lambda: says("I have added milk."))
    requests: list[ModelRequest] = field(default_factory=list)

    async def round(self, request: ModelRequest) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]:
        is_title = str(request.messages[0]["content"]).startswith("Write a title")
        if is_title:
            self.requests.append(request)
        for part in self.title if is_title else self.answer:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, ReasoningDelta | TextDelta | ModelRound):
                yield part
            else:
                await part()


@pytest.fixture
async def titling() -> Titling:
    return Titling()


@pytest.fixture
async def titles(bench: Bench, titling: Titling) -> AsyncIterator[Titles]:
    titles = Titles(titling, bench.database, bench.outgoing.send, LIMITS)
    yield titles
    await titles.stop()


async def test_the_first_answer_of_a_conversation_gives_it_a_title(
    bench: Bench, titling: Titling, titles: Titles
) -> None:
    job = await run(bench, titling, titles, await bench.accept(said("add milk, please")))

    title = await first_title_sent(bench)

    assert title == TitleSuggested(
        conversation_id=job.conversation_id, user_id=USER, title="Milk and bread", input_tokens=10, output_tokens=5
    )
    [request] = titling.requests
    assert request.messages[1]["content"] == "add milk, please\n\nAnswer:\nI have added milk."
    assert request.output_token_count_max == LIMITS.token_count_max
    assert request.tools == ()


async def test_what_it_costs_is_not_the_responses(bench: Bench, titling: Titling, titles: Titles) -> None:
    job = await run(bench, titling, titles, await bench.accept(said("add milk, please")))
    await first_title_sent(bench)

    assert bench.journal.response(job)["usage"]["total_tokens"] == 15


async def test_later_answers_give_none(bench: Bench, titling: Titling, titles: Titles) -> None:
    first = await bench.turns.exchange(USER, "hello", "hello, you")
    await run(bench, titling, titles, await bench.accept(said("more"), conversation_id=first.conversation_id))
    marker = await run(bench, titling, titles, await bench.accept(said("anew")))

    title = await first_title_sent(bench)

    assert title.conversation_id == marker.conversation_id
    assert len(titling.requests) == 1


async def test_an_answer_that_was_cut_gives_none(bench: Bench, titling: Titling, titles: Titles) -> None:
    titling.answer = [TextDelta("I"), ModelRound(0, "I", (), Finish.LENGTH, Usage(10, 5))]
    await run(bench, titling, titles, await bench.accept(said("add milk")))
    titling.answer = says("Yes.")
    marker = await run(bench, titling, titles, await bench.accept(said("anew")))

    title = await first_title_sent(bench)

    assert title.conversation_id == marker.conversation_id


async def test_the_job_ends_and_is_settled_while_a_title_is_being_made(
    bench: Bench, titling: Titling, titles: Titles
) -> None:
    titling.title = [forever]

    job = await run(bench, titling, titles, await bench.accept(said("add milk")))

    assert bench.journal.ends[job.job_id] == "completed"


async def test_while_enough_are_being_made_no_other_is_begun(bench: Bench, titling: Titling, titles: Titles) -> None:
    titling.title = [forever]
    first = await bench.turns.exchange(USER, "hello", "hello, you")
    assert titles.suggest(opening_of(first)) is not None

    assert titles.suggest(opening_of(first)) is None


async def test_a_process_that_stops_gives_up_what_is_being_made(bench: Bench, titling: Titling, titles: Titles) -> None:
    titling.title = [forever]
    first = await bench.turns.exchange(USER, "hello", "hello, you")
    task = titles.suggest(opening_of(first))

    async with asyncio.timeout(5):
        await titles.stop()

    assert task is not None
    assert task.cancelled()
    assert titles.suggest(opening_of(first)) is None


@pytest.mark.parametrize("change", ["title_source = 'user'", "title_source = 'model'", "deleted_at = now()"])
async def test_no_model_is_asked_where_a_title_was_chosen_or_nobody_would_see_it(
    bench: Bench, titling: Titling, titles: Titles, change: str
) -> None:
    first = await bench.turns.exchange(USER, "hello", "hello, you")
    async with bench.turns.gateway.transaction(USER) as db:
        await db.execute(f"update conversations set {change} where id = $1", first.conversation_id)  # noqa: S608

    await finished(titles, first)

    assert titling.requests == []


async def test_a_response_that_is_not_stored_gives_none(bench: Bench, titling: Titling, titles: Titles) -> None:
    turn = Turn(USER, [text_message(Role.USER, "hello")], model="todo", options={}, store=False)
    job = await Acceptance(bench.turns.gateway, AcceptLimits(open_jobs_max=1_000)).accept(turn)

    await finished(titles, job)

    assert titling.requests == []


@pytest.mark.parametrize("round_", [[ModelUnavailableError("model_failing", "It fails.")], says("***")])
async def test_a_model_that_fails_or_says_nothing_leaves_the_title_as_it_is(bench: Bench, round_: Round) -> None:
    first = await bench.turns.exchange(USER, "hello", "hello, you")

    await finished(Titles(Titling(title=round_), bench.database, bench.outgoing.send, LIMITS), first)

    assert titles_sent(bench) == []


@pytest.mark.parametrize(
    ("said_by_model", "title"),
    [
        ("Groceries", "Groceries"),
        ("  Groceries.\n", "Groceries"),
        ("\n\nGroceries\nand more", "Groceries"),
        ('"Groceries"', "Groceries"),
        ("«Courses»", "Courses"),
        ("# Groceries", "Groceries"),
        ("**Groceries** for `today`", "Groceries for today"),
        ("Title: Groceries", "Groceries"),
        ("**Title:** Groceries", "Groceries"),
        ("<b>Groceries</b>", "Groceries"),
        ("[Groceries](https://example.org)", "Groceries"),
        ("Using snake_case in C#", "Using snake_case in C#"),
        ("Is 1 < 2 and 3 > 2?", "Is 1 < 2 and 3 > 2?"),
        ("a\u202eb\u0000c\td", "abc d"),
        ("Wait...", "Wait..."),
        ("买牛奶", "买牛奶"),
        ("", ""),
        ("***", ""),
    ],
)
def test_a_title_is_one_clean_line(said_by_model: str, title: str) -> None:
    assert clean_title(said_by_model) == title


def test_a_long_title_is_cut_between_words() -> None:
    assert clean_title("word " * 30) == "word word word word word word word word word word word…"
    assert len(clean_title("[" * 1_000_000)) == 60  # in no time


@given(st.text(max_size=300))
def test_whatever_the_model_writes_a_title_fits_and_has_nothing_unseen(text: str) -> None:
    title = clean_title(text)

    assert len(title) <= 60
    assert title == " ".join(title.split())
    assert not [char for char in title if unicodedata.category(char)[0] == "C" and char not in "\u200c\u200d"]


async def run(bench: Bench, model: Model, titles: Titles, job: Accepted) -> Accepted:
    worker = Worker(
        database=bench.database,
        leases=bench.leases,
        outgoing=bench.outgoing,
        resumer=bench.journal,
        model=model,
        tools=ScriptedTools(),
        limits=RUNNER_LIMITS,
        turn_limits=TurnLimits(retry_delays_seconds=()),
        prompt_limits=PromptLimits(),
        titles=titles,
    )
    assert await Runner(worker).run(bench.ready(job), delivery_id=uuid7().hex) is Verdict.SETTLED
    return job


def opening_of(job: Accepted) -> Opening:
    return Opening(job.conversation_id, USER, "hello", "hello, you")


async def finished(titles: Titles, job: Accepted) -> None:
    """Have a title made, and wait until that is over."""
    task = titles.suggest(opening_of(job))
    assert task is not None
    await task


def titles_sent(bench: Bench) -> list[TitleSuggested]:
    messages = [decode(body) for body in bench.journal.bodies]
    return [message for message in messages if isinstance(message, TitleSuggested)]


async def first_title_sent(bench: Bench) -> TitleSuggested:
    async def look() -> list[TitleSuggested]:
        return titles_sent(bench)

    return (await wait_until(look, seconds=10, what="a title"))[0]
