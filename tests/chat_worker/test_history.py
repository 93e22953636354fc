"""The turns that lead to a job, as the prompt sees them."""

from uuid import UUID

from chat_worker import history
from chat_worker.agent.prompt import Called, PastTurn, Said
from chat_worker.agent.values import ToolError, ToolErrorKind, ToolResult
from chat_worker.history import HistoryLimits, tool_error_from_wire, tool_error_to_wire
from gateway.turns import Accepted, InputMessage, Role, Turn, accept
from shared.ids import uuid7
from tests.support.attempts import USER, Bench
from tests.support.turns import Call


async def test_a_first_turn_has_no_past(bench: Bench) -> None:
    job = await bench.job("hello")

    told = await read(bench, job)

    assert told.past == []
    assert texts(told.current) == ["hello"]


async def test_past_turns_come_oldest_first(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    await bench.turns.exchange(USER, "two", "reply two", conversation_id=first.conversation_id)
    job = await bench.job("three", first.conversation_id)

    told = await read(bench, job)

    assert [texts(turn) for turn in told.past] == [["one", "reply one"], ["two", "reply two"]]
    assert texts(told.current) == ["three"]


async def test_tool_calls_stand_where_they_were_made(bench: Bench) -> None:
    failure = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no such task"}]}
    calls = Call(), Call("delete_task", '{"task_id":"x"}', None, failure)
    first = await bench.turns.exchange(USER, "milk, please", "Done, mostly.", *calls)
    job = await bench.job("and now?", first.conversation_id)

    [turn] = (await read(bench, job)).past

    said, added, deleted, answer = turn.entries
    assert said == Said("user", "milk, please")
    assert isinstance(added, Called)
    assert isinstance(deleted, Called)
    assert (added.call.name, added.call.arguments) == ("add_task", '{"title":"buy milk"}')
    assert added.result == ToolResult('{"title":"buy milk"}')
    assert deleted.result == ToolResult(None, ToolError(ToolErrorKind.EXECUTION, "no such task"))
    assert added.step != deleted.step
    assert added.call.call_id != deleted.call.call_id
    assert answer == Said("assistant", "Done, mostly.")


async def test_a_fork_sees_its_own_branch_only(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    await bench.turns.exchange(USER, "two", "reply two", conversation_id=first.conversation_id)
    forked = await ask_after(bench, first, "two, again")

    told = await read(bench, forked)

    assert [texts(turn) for turn in told.past] == [["one", "reply one"]]
    assert texts(told.current) == ["two, again"]


async def test_a_chain_from_another_conversation_comes_first(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "elsewhere", "reply elsewhere")
    second = await bench.turns.exchange(USER, "more elsewhere", "so be it", conversation_id=first.conversation_id)
    begun = await ask_after(bench, second, "here", in_new_conversation=True)
    await bench.turns.answer(begun, "reply here")
    job = await bench.job("and on", begun.conversation_id)

    told = await read(bench, job)

    assert [texts(turn)[0] for turn in told.past] == ["elsewhere", "more elsewhere", "here"]


async def test_deleted_messages_are_left_out(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    await insert_loose(bench, first.conversation_id, turn=1, ordinal=100, text="forget this", is_deleted=True)
    job = await bench.job("two", first.conversation_id)

    told = await read(bench, job)

    assert [texts(turn) for turn in told.past] == [["one", "reply one"]]


async def test_items_without_a_response_stand_in_their_place(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    job = await bench.job("two", first.conversation_id)
    await insert_loose(bench, first.conversation_id, turn=1, ordinal=100, text="a note")
    await insert_loose(bench, first.conversation_id, turn=0, ordinal=0, text="before all")

    told = await read(bench, job)

    assert [texts(turn) for turn in told.past] == [["before all"], ["one", "reply one", "a note"]]


async def test_a_long_conversation_is_cut_at_its_oldest_turns(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "turn 0", "reply 0")
    for number in range(1, 100):
        await bench.turns.exchange(USER, f"turn {number}", f"reply {number}", conversation_id=first.conversation_id)
    job = await bench.job("now", first.conversation_id)

    whole = await read(bench, job, turn_count_max=1_000)
    cut = await read(bench, job, turn_count_max=3)

    assert [texts(turn)[0] for turn in whole.past] == [f"turn {number}" for number in range(100)]
    assert [texts(turn)[0] for turn in cut.past] == ["turn 97", "turn 98", "turn 99"]


async def test_what_no_prompt_has_room_for_is_not_read(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "turn 0", "x" * 100)
    for number in range(1, 5):
        await bench.turns.exchange(USER, f"turn {number}", "x" * 94, conversation_id=first.conversation_id)
    job = await bench.job("now" * 1_000, first.conversation_id)  # which does not count

    told = {size: [texts(turn)[0] for turn in (await read(bench, job, bytes_max=size)).past] for size in (0, 299, 300)}

    assert told == {0: [], 299: ["turn 3", "turn 4"], 300: ["turn 2", "turn 3", "turn 4"]}


async def test_a_tool_result_counts_as_what_the_prompt_shows_of_it(bench: Bench) -> None:
    call = Call("list_tasks", "{}", "y" * 500)
    first = await bench.turns.exchange(USER, "all", "there", call)
    job = await bench.job("and now?", first.conversation_id)

    kept = await read(bench, job, bytes_max=50, output_bytes_max=40)
    left_out = await read(bench, job, bytes_max=49, output_bytes_max=40)

    assert (len(kept.past), len(left_out.past)) == (1, 0)


async def test_items_without_a_response_have_a_limit_too(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    for ordinal in (100, 101, 102):
        await insert_loose(bench, first.conversation_id, turn=1, ordinal=ordinal, text=f"note {ordinal}")
    job = await bench.job("two", first.conversation_id)

    [turn] = (await read(bench, job, bytes_max=16)).past

    assert texts(turn) == ["one", "reply one", "note 101", "note 102"]


async def test_another_users_turns_are_never_part_of_it(bench: Bench) -> None:
    theirs = await bench.turns.exchange("somebody-else", "a secret", "kept")
    job = await bench.job("hello")
    await bench.in_database(f"update jobs set parent_job_id = '{theirs.job_id}' where id = $1", job)  # noqa: S608

    assert (await read(bench, job)).past == []


def test_a_tools_error_means_the_same_on_the_wire_and_back() -> None:
    for error in (
        ToolError(ToolErrorKind.EXECUTION, "no such task"),
        ToolError(ToolErrorKind.PROTOCOL, "bad request", -32600),
        ToolError(ToolErrorKind.HTTP, "unavailable", 503),
    ):
        assert tool_error_from_wire(tool_error_to_wire(error)) == error
    assert tool_error_from_wire(None) is None


async def read(
    bench: Bench, job: Accepted, *, turn_count_max: int = 100, bytes_max: int = 1_000_000, output_bytes_max: int = 1_000
) -> history.History:
    limits = HistoryLimits(turn_count_max, bytes_max, output_bytes_max)
    return await history.read(bench.database, USER, job.job_id, limits)


def texts(turn: PastTurn) -> list[str]:
    return [entry.text for entry in turn.entries if isinstance(entry, Said)]


async def ask_after(bench: Bench, parent: Accepted, text: str, *, in_new_conversation: bool = False) -> Accepted:
    turn = Turn(
        USER,
        [InputMessage.of_text(Role.USER, text)],
        model="todo",
        options={},
        conversation_id=None if in_new_conversation else parent.conversation_id,
        parent_job_id=parent.job_id,
    )
    return await accept(bench.turns.gateway, turn, open_jobs_max=1_000)


async def insert_loose(  # noqa: PLR0913 - what a test varies
    bench: Bench, conversation_id: UUID, *, turn: int, ordinal: int, text: str, is_deleted: bool = False
) -> None:
    async with bench.turns.persistence.transaction(None) as db:
        await db.execute(
            """
            insert into messages
                (id, conversation_id, user_id, turn, ordinal, role, content, parts, status, deleted_at)
            values ($1, $2, $3, $4, $5, 'user', $6, '[]', 'completed', case when $7 then now() end)
            """,
            uuid7(),
            conversation_id,
            USER,
            turn,
            ordinal,
            text,
            is_deleted,
        )
