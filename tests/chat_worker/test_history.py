"""The turns that lead to a job, as the prompt sees them."""

from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from chat_worker import history
from chat_worker.agent.prompt import Called, PastTurn, Said
from chat_worker.agent.values import ApprovalAnswer, ToolCall, ToolError, ToolErrorKind, ToolResult
from chat_worker.history import HistoryLimits, tool_error_from_wire, tool_error_to_wire
from gateway.items import Role, text_message
from gateway.turns import Acceptance, Accepted, AcceptLimits, Turn
from shared.db.files import NewFile, Purpose, store_file
from shared.ids import Prefix, to_wire, uuid7
from tests.support.attempts import USER, Bench, said
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


# Calls and what became of them


async def test_the_client_may_send_calls_and_outputs_in_any_order(bench: Bench) -> None:
    fly, sing = a_function_call("call_1", "fly"), a_function_call("call_2", "sing")
    job = await bench.accept(said("go"), fly, sing, an_output("call_2", "la"), said("and?"), an_output("call_1", "up"))

    told = await read(bench, job)

    assert shown(told.current) == ["go", {"fly": "up", "sing": "la"}, "and?"]


async def test_a_call_is_told_where_it_is_answered_with_the_text_that_led_to_it(bench: Bench) -> None:
    asked = await answered_with(bench, "go", a_message("Let me see."), a_function_call("call_1", "fly"))
    job = await bench.accept(said("there:"), an_output("call_1", "up"), conversation_id=asked.conversation_id)

    told = await read(bench, job)

    assert [shown(turn) for turn in told.past] == [["go"]]
    assert shown(told.current) == ["Let me see.", {"fly": "up"}, "there:"]


async def test_a_call_without_an_answer_has_a_result_all_the_same(bench: Bench) -> None:
    asked = await answered_with(bench, "go", a_function_call("call_1", "fly"), a_function_call("call_2", "sing"))
    await insert_item(bench, asked, 5, an_output("call_2", "la"), is_loose=True)
    job = await bench.accept(said("well?"), conversation_id=asked.conversation_id)

    told = await read(bench, job)

    assert [shown(turn) for turn in told.past] == [["go", {"fly": None, "sing": "la"}]]


async def test_an_output_whose_call_is_gone_is_told_nevertheless(bench: Bench) -> None:
    asked = await answered_with(bench, "go", a_function_call("call_1", "fly"))
    await delete(bench, "items", asked)
    job = await bench.accept(an_output("call_1", "up"), conversation_id=asked.conversation_id)

    told = await read(bench, job)

    assert shown(told.current) == [{"function": "up"}]


async def test_a_call_is_found_however_long_its_turn_is(bench: Bench) -> None:
    asked = await answered_with(bench, "go" * 100, a_function_call("call_1", "fly"), a_function_call("call_2", "sing"))
    job = await bench.accept(
        an_output("call_1", "up"), an_output("call_2", "la"), conversation_id=asked.conversation_id
    )

    told = await read(bench, job, bytes_max=10)

    assert told.past == []
    assert shown(told.current) == [{"fly": "up"}, {"sing": "la"}]


async def test_an_id_that_comes_again_is_another_call(bench: Bench) -> None:
    call = a_function_call("call_1", "fly")
    job = await bench.accept(said("go"), call, an_output("call_1", "one"), call, an_output("call_1", "two"))

    assert shown((await read(bench, job)).current) == ["go", {"fly": "one"}, {"fly": "two"}]


async def test_calls_in_a_clients_own_record_count_as_made(bench: Bench) -> None:
    call = {"type": "mcp_call", "server_label": "x", "name": "fly", "arguments": "{}", "output": "up", "error": None}
    failed = {**call, "output": None, "error": "no wings"}
    job = await bench.accept(said("go"), call, failed, said("and?"))

    told = await read(bench, job)

    assert shown(told.current) == ["go", {"fly": "up"}, {"fly": "no wings"}, "and?"]


async def test_reasoning_is_not_told(bench: Bench) -> None:
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    asked = await answered_with(bench, "go", reasoning, a_message("Hi."))
    job = await bench.accept(said("and?"), conversation_id=asked.conversation_id)

    assert [shown(turn) for turn in (await read(bench, job)).past] == [["go", "Hi."]]


async def test_deleted_calls_are_left_out(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one", Call())
    await delete(bench, "tool_calls", first)
    job = await bench.job("two", first.conversation_id)

    assert [shown(turn) for turn in (await read(bench, job)).past] == [["one", "reply one"]]


REQUEST = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "mail", "name": "wipe", "arguments": "{}"}
YES = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True, "reason": None}
NO = {**YES, "approve": False, "reason": "not today"}
WIPE = ToolCall("mcpr_1", "wipe", "{}")


async def test_what_the_user_answers_now_is_not_part_of_the_history(bench: Bench) -> None:
    asked = await answered_with(bench, "go", a_message("May I?"), REQUEST)
    job = await bench.accept(YES, conversation_id=asked.conversation_id)

    told = await read(bench, job)

    assert [shown(turn) for turn in told.past] == [["go", "May I?"]]
    assert told.approvals == [ApprovalAnswer("mcpr_1", "mail", WIPE, is_approved=True)]


async def test_a_question_is_found_however_long_its_turn_is(bench: Bench) -> None:
    asked = await answered_with(bench, "go" * 100, REQUEST)
    job = await bench.accept(NO, conversation_id=asked.conversation_id)

    told = await read(bench, job, bytes_max=10)

    assert told.is_cut
    assert told.approvals == [ApprovalAnswer("mcpr_1", "mail", WIPE, is_approved=False, reason="not today")]


async def test_a_question_is_answered_once(bench: Bench) -> None:
    asked = await answered_with(bench, "go" * 100, REQUEST)
    first = await answered_with(bench, "", conversation_id=asked.conversation_id, said_items=[NO])
    second = await bench.accept(YES, YES, conversation_id=first.conversation_id)

    told = await read(bench, second)
    cut = await read(bench, second, bytes_max=10)

    assert told.approvals == cut.approvals == []
    assert [shown(turn) for turn in told.past] == [
        ["go" * 100],
        [{"wipe": "refused by the user: not today. The call was not made."}],
    ]


async def test_a_question_of_another_branch_is_not_known(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "one", "reply one")
    await answered_with(bench, "go", REQUEST, conversation_id=first.conversation_id)
    job = await bench.accept(YES, conversation_id=first.conversation_id, parent=first)

    assert (await read(bench, job)).approvals == []


async def test_a_question_without_an_answer_is_a_call_that_was_not_made(bench: Bench) -> None:
    asked = await answered_with(bench, "go", REQUEST)
    job = await bench.accept(said("well?"), conversation_id=asked.conversation_id)

    [turn] = (await read(bench, job)).past

    assert shown(turn) == ["go", {"wipe": "the user has not allowed this call yet. It was not made."}]


# Images and files


async def test_images_and_files_are_read_the_newest_first_as_far_as_there_is_room(bench: Bench) -> None:
    old, new = await a_file(bench, b"x" * 60, "image/png"), await a_file(bench, b"y" * 50, "image/png")
    note = await a_file(bench, b"buy milk", "text/plain")
    first = await bench.accept(a_message_of("look", image(old)))
    await bench.in_database(
        "update conversations set active_job_id = null where last_turn = 1 and $1::uuid is not null", first
    )
    job = await bench.accept(a_message_of("and", image(new), document(note)), conversation_id=first.conversation_id)

    told = await read(bench, job, file_bytes_max=100)

    [past], [now] = told.past[0].entries, told.current.entries
    assert isinstance(past, Said)
    assert isinstance(now, Said)
    assert past.parts[1]["text"].startswith("[image left out")
    assert now.parts == (
        {"type": "text", "text": "and"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{b64encode(b'y' * 50).decode()}", "detail": "low"},
        },
        {"type": "text", "text": "File a-file:\nbuy milk"},
    )


async def test_a_file_that_is_no_text_goes_as_it_is(bench: Bench) -> None:
    pdf = await a_file(bench, b"%PDF", "application/pdf")
    job = await bench.accept(a_message_of("", document(pdf)))

    [now] = (await read(bench, job)).current.entries

    assert isinstance(now, Said)
    data = f"data:application/pdf;base64,{b64encode(b'%PDF').decode()}"
    assert now.parts == ({"type": "file", "file": {"filename": "a-file", "file_data": data}},)


async def test_another_users_file_is_none(bench: Bench) -> None:
    theirs = await a_file(bench, b"secret", "text/plain", user_id="somebody-else")
    job = await bench.accept(a_message_of("", document(theirs)))

    [now] = (await read(bench, job)).current.entries

    assert isinstance(now, Said)
    assert now.parts[0]["text"].startswith("[file left out")


def test_a_tools_error_means_the_same_on_the_wire_and_back() -> None:
    for error in (
        ToolError(ToolErrorKind.EXECUTION, "no such task"),
        ToolError(ToolErrorKind.PROTOCOL, "bad request", -32600),
        ToolError(ToolErrorKind.HTTP, "unavailable", 503),
    ):
        assert tool_error_from_wire(tool_error_to_wire(error)) == error
    assert tool_error_from_wire(None) is None


async def read(  # noqa: PLR0913 - what a test varies
    bench: Bench,
    job: Accepted,
    *,
    turn_count_max: int = 100,
    bytes_max: int = 1_000_000,
    output_bytes_max: int = 1_000,
    file_bytes_max: int = 1_000,
) -> history.History:
    limits = HistoryLimits(turn_count_max, bytes_max, output_bytes_max, file_bytes_max=file_bytes_max)
    return await history.read(bench.database, USER, job.job_id, limits)


def texts(turn: PastTurn) -> list[str]:
    return [entry.text for entry in turn.entries if isinstance(entry, Said)]


def shown(turn: PastTurn) -> list[str | dict[str, str | None]]:
    """Texts, and for each round what its calls came to."""
    entries: list[str | dict[str, str | None]] = []
    for step, group in groupby(turn.entries, key=lambda entry: getattr(entry, "step", None)):
        found = list(group)
        if step is None:
            entries += [entry.text for entry in found if isinstance(entry, Said)]
        else:
            entries.append({entry.call.name: outcome(entry.result) for entry in found if isinstance(entry, Called)})
    return entries


def outcome(result: ToolResult | None) -> str | None:
    if result is None or result.error is None:
        return None if result is None else result.output
    return result.error.message


def a_function_call(call_id: str, name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}", "status": "completed"}


def an_output(call_id: str, output: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def a_message(text: str) -> dict[str, Any]:
    return {"type": "message", "text": text}


def a_message_of(text: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {**said(text), "content": [*said(text)["content"], *parts]}


def image(file_id: str) -> dict[str, Any]:
    return {"type": "input_image", "file_id": file_id, "image_url": None, "detail": "low"}


def document(file_id: str) -> dict[str, Any]:
    return {"type": "input_file", "file_id": file_id, "filename": "a-file"}


async def a_file(bench: Bench, content: bytes, media_type: str, *, user_id: str = USER) -> str:
    file = NewFile(filename="a-file", media_type=media_type, purpose=Purpose.USER_DATA, content=content)
    async with bench.turns.gateway.transaction(user_id) as db:
        stored = await store_file(db, user_id, file, bytes_max=10_000, count_max=100)
    return to_wire(Prefix.FILE, stored.id)


async def answered_with(
    bench: Bench,
    text: str,
    *output: dict[str, Any],
    conversation_id: UUID | None = None,
    said_items: Sequence[dict[str, Any]] = (),
) -> Accepted:
    """A turn that ended with these items."""
    job = await bench.accept(*(said_items or [said(text)]), conversation_id=conversation_id)
    await bench.turns.answer(job, None)
    for ordinal, item in enumerate(output, start=1):
        await insert_item(bench, job, ordinal, item)
    return job


async def delete(bench: Bench, table: str, job: Accepted) -> None:
    async with bench.turns.gateway.transaction(USER) as db:
        await db.execute(f"update {table} set deleted_at = now() where job_id = $1", job.job_id)  # noqa: S608 - constant


async def insert_item(
    bench: Bench, job: Accepted, ordinal: int, item: dict[str, Any], *, is_loose: bool = False
) -> None:
    table = "messages" if item["type"] == "message" else "items"
    columns, values = ("role, content, parts, status", "'assistant', $3, '[]', 'completed'")
    if table == "items":
        columns, values = "kind, item", "$3, $4::jsonb"
    async with bench.turns.persistence.transaction(None) as db:
        arguments = (
            [item["text"]] if table == "messages" else [item["type"], {"id": f"{item['type']}_{ordinal}", **item}]
        )
        await db.execute(
            f"""
            insert into {table} (id, job_id, conversation_id, user_id, turn, ordinal, {columns})
            select gen_random_uuid(), {"null" if is_loose else "id"}, conversation_id, user_id, turn, $2, {values}
            from jobs where id = $1
            """,  # noqa: S608 - constants
            job.job_id,
            ordinal,
            *arguments,
        )


async def ask_after(bench: Bench, parent: Accepted, text: str, *, in_new_conversation: bool = False) -> Accepted:
    turn = Turn(
        USER,
        [text_message(Role.USER, text)],
        model="todo",
        options={},
        conversation_id=None if in_new_conversation else parent.conversation_id,
        parent_job_id=parent.job_id,
    )
    return await Acceptance(bench.turns.gateway, AcceptLimits(open_jobs_max=1_000)).accept(turn)


async def insert_loose(  # noqa: PLR0913 - what a test varies
    bench: Bench, conversation_id: UUID, *, turn: int, ordinal: int, text: str, is_deleted: bool = False
) -> None:
    await bench.turns.change(
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
