"""Attempts that are over and do not know it: stories that are told with and without protection."""

import asyncio
import signal

from shared.ids import Prefix, from_wire
from tests.support.stack import ServiceProcess
from tests.system.faults.history import Said
from tests.system.faults.load import Arena, died
from tests.system.faults.wire import Wire, late_chunk, row_when, second_end, wired

_THINKING_MS = 3_000  # longer than it takes to freeze a worker that began to wait for its model


async def speak_as_a_dead_attempt(arena: Arena, target: ServiceProcess) -> None:
    """The worker `target` dies in mid-text; its last words arrive when the next attempt is speaking already."""
    user = arena.users[0]
    said = [await user.ask(tokens=150, delay_ms=20) for _ in range(4)]
    for spoken in said:
        arena.read(user, spoken)
    await died(target)
    async with wired(arena.backends) as wire:
        await asyncio.gather(*(_say_more(arena, wire, spoken) for spoken in said))


async def _say_more(arena: Arena, wire: Wire, spoken: Said) -> None:
    job_id = from_wire(Prefix.RESPONSE, spoken.response_id)
    row = await row_when(arena.backends, job_id, "(journal_attempt = 2 and next_seq > 20 or ended_at is not null)")
    if row["ended_at"] is None:
        words = late_chunk(job_id, row["conversation_id"], attempt=1, first_seq=row["next_seq"] - 3, count=500)
        await wire.send_to_persistence(row["conversation_id"], words)


async def end_once_more(arena: Arena) -> None:
    """The worker of an answer that is complete says that it failed; then the conversation goes on."""
    user = arena.users[0]
    said = await user.ask()
    await arena.read(user, said)
    [job] = [job for job in (await arena.snapshot()).jobs if job.response_id == said.response_id]
    async with wired(arena.backends) as wire:
        await wire.send_to_persistence(job.conversation_id, second_end(job))
        # Its events take the same way, so the second end was heard when these are.
        await arena.read(user, await user.ask(said.conversation_id))


async def overtake_a_frozen_worker(arena: Arena) -> Said:
    """A worker freezes while the model thinks about a tool call; another goes on; then the first one wakes."""
    user = arena.users[0]
    said = await user.say(f"[[demo: first_delay_ms={_THINKING_MS}]] add a task: {user.canary()}", model="todo")
    job_id = from_wire(Prefix.RESPONSE, said.response_id)
    row = await row_when(arena.backends, job_id, "status = 'in_progress'")
    [frozen] = [worker for worker in arena.stack.of_kind("chat-worker") if worker.is_process(row["worker_id"])]
    frozen.signal(signal.SIGSTOP)
    try:
        # Behind the barrier: before it, the frozen worker could still end the job, and rightly.
        await row_when(arena.backends, job_id, "attempt = 2 and journal_attempt = 2 and status = 'in_progress'")
    finally:
        frozen.signal(signal.SIGCONT)
    await arena.read(user, said)
    return said
