"""`python -m persistence.ops`: look at jobs, dead letters and queues, and lend a hand where one is stuck.

Runs with the environment of the service, as its database role. What it prints holds ids, numbers and times, never what
was said. Exit codes: 0 done, 1 refused (nothing changed), 2 wrong usage, 3 Postgres or RabbitMQ
is away, or refuses us.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from persistence import interventions, lookup, overview, tool_pins
from persistence.announce import Announcer, Dispatcher
from persistence.purge import Purges, State
from persistence.settings import PersistenceSettings
from persistence.writer import Written
from shared.db import Database, UnsafeRoleError
from shared.db.audit import Act, ActorKind, audited, command_line, read_log
from shared.db.purges import find_purge, open_purges, request_purge
from shared.errors import BrokerUnavailableError, InvalidInputError, RejectedError, UnavailableError
from shared.ids import Prefix, from_wire, to_wire
from shared.messaging import Broker, Publisher
from shared.observability import configure_logging
from shared.settings import settings_or_exit

_REASON_CHARS_MAX = 500
_LIMIT_MAX = 1_000
_PURGE_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say: `facts` for programs, `text` for people."""

    facts: object
    text: str


class System:
    """The servers, opened as a command needs them."""

    def __init__(self, settings: PersistenceSettings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        database = await Database.connect(
            self._settings.database_url.get_secret_value(),
            application_name="ops",
            pool_size=2,
            wait_seconds=0,
        )
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        async with self.database() as database, database.transaction(None) as connection:
            yield connection

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publisher]:
        """Raises BrokerUnavailableError where none is reached within PUBLISH_TIMEOUT_SECONDS."""
        publisher = Publisher(
            Broker(
                url=self._settings.rabbitmq_url.get_secret_value(),
                process="ops",
                partition_count=self._settings.partition_count,
                publish_timeout_seconds=self._settings.publish_timeout_seconds,
                ca_file=self._settings.tls_ca_file,
            )
        )
        publisher.start()
        try:
            try:
                await publisher.wait_until_up(self._settings.publish_timeout_seconds)
            except TimeoutError as error:
                raise BrokerUnavailableError("broker_unavailable", "RabbitMQ cannot be reached") from error
            yield publisher
        finally:
            await publisher.stop()

    async def purge(self, database: Database, user_id: str, purge_id: UUID) -> None:
        """Carry on a purge until everything is deleted, waiting a while for running jobs. The service finishes it."""
        purges = Purges(
            database,
            round_seconds=self._settings.purge_round_seconds,
            settle_seconds=self._settings.purge_settle_seconds,
        )
        while True:
            async with database.transaction(user_id) as connection:
                purge = await find_purge(connection, user_id, purge_id)
            if purge is None or purge.finished_at or await purges.carry_on(purge) is not State.WAITING:
                return
            await asyncio.sleep(_PURGE_PAUSE_SECONDS)

    async def tell(self, database: Database, written: Written) -> str:
        """Publish what a commit made known, as the service does after its own; returns how that went."""
        try:
            async with AsyncExitStack() as stack:
                publisher = await stack.enter_async_context(self.publisher())
                dispatcher = Dispatcher(publisher, database)
                announcer = Announcer(publisher, dispatcher)
                for part in (dispatcher, announcer):
                    part.start()
                    stack.push_async_callback(part.stop, self._settings.publish_timeout_seconds)
                announcer.announce(written)
        except BrokerUnavailableError:
            return "RabbitMQ cannot be reached: the service tells the others later"
        return "told to workers and streams"


_Command: TypeAlias = Callable[[System, argparse.Namespace], Coroutine[Any, Any, Answer]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    asked = _parsed(arguments)
    settings = settings_or_exit(PersistenceSettings, "ops")
    # What goes wrong is said in one line, below.
    configure_logging("ops", settings.model_copy(update={"log_level": "CRITICAL"}))
    command: _Command = asked.run
    try:
        answer = asyncio.run(command(System(settings), asked))
    except RejectedError as error:
        return _refuse(error.message, 1)
    except UnavailableError as error:
        return _refuse(error.message, 3)
    except (UnsafeRoleError, asyncpg.PostgresError) as error:
        return _refuse(f"Postgres refuses: {error}", 3)
    except KeyboardInterrupt:
        return 130
    text = msgspec.json.encode(answer.facts).decode() if asked.json else answer.text
    sys.stdout.write(f"{text}\n")
    return 0


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"ops: {' '.join(message.split())}\n")
    return code


# --- Commands


async def _jobs(system: System, asked: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        if asked.state is None:
            states = await overview.open_jobs(connection)
            return Answer(states, _table([("STATE", "JOBS", "OLDEST"), *(_state_line(state) for state in states)]))
        jobs = await lookup.jobs(connection, asked.state, asked.limit)
    rows = [(job.id, job.state, _duration(job.age_seconds), job.attempt, job.worker or "-") for job in jobs]
    return Answer(jobs, _table([("JOB", "STATE", "AGE", "ATTEMPT", "WORKER"), *rows]))


async def _job(system: System, asked: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        life = await lookup.job(connection, asked.job)
    return Answer(life, _life(life))


async def _dead(system: System, asked: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        count = await overview.dead_letter_count(connection)
        letters = await lookup.dead_letters(connection, asked.limit)
    rows = [
        (
            letter.id,
            _duration(letter.age_seconds),
            letter.queue,
            letter.reason,
            letter.kind,
            letter.job or "-",
            letter.job_status or "-",
        )
        for letter in letters
    ]
    table = _table([("DEAD LETTER", "AGE", "QUEUE", "REASON", "KIND", "JOB", "JOB IS"), *rows])
    return Answer({"count": count, "latest": letters}, f"{table}\n{len(letters)} of {count}")


async def _dead_requeue(system: System, asked: argparse.Namespace) -> Answer:
    async with system.database() as database:
        async with audited(database, _act("dead_letter.requeued", asked.dead_letter)) as connection:
            job_id, written = await interventions.requeue_dead(connection, asked.dead_letter)
        return await _changed(system, database, job_id, written)


async def _requeue(system: System, asked: argparse.Namespace) -> Answer:
    async with system.database() as database:
        async with audited(database, _act("job.requeued", asked.job)) as connection:
            written = await interventions.requeue(connection, asked.job)
        return await _changed(system, database, asked.job, written)


async def _fail(system: System, asked: argparse.Namespace) -> Answer:
    async with system.database() as database:
        async with audited(database, _act("job.failed", asked.job)) as connection:
            written = await interventions.fail(connection, asked.job, asked.reason)
        return await _changed(system, database, asked.job, written)


async def _changed(system: System, database: Database, job_id: UUID, written: Written) -> Answer:
    job = to_wire(Prefix.RESPONSE, job_id)
    state = written.ended[0].status.value if written.ended else "queued"
    following = [to_wire(Prefix.RESPONSE, ready.job_id) for ready in written.ready if ready.job_id != job_id]
    told = await system.tell(database, written)
    lines = [f"{job} is {state} now", *(f"{other} is next in its conversation" for other in following), told]
    return Answer({"job": job, "state": state, "next": following, "told": told}, "\n".join(lines))


async def _queues(system: System, _: argparse.Namespace) -> Answer:
    async with system.publisher() as publisher:
        queues = await overview.queues(publisher)
    rows = [(queue.name, queue.message_count, queue.consumer_count) for queue in queues]
    return Answer(queues, _table([("QUEUE", "READY", "CONSUMERS"), *rows]))


async def _tools(system: System, asked: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        tools = await tool_pins.pinned_tools(connection, asked.server)
    rows = [
        (tool.server, tool.tool, _state_of(tool), tool.change_count, _shown(tool.seen_at), tool.seen_digest)
        for tool in tools
    ]
    return Answer(tools, _table([("SERVER", "TOOL", "STATE", "CHANGES", "SINCE", "DIGEST"), *rows]))


async def _tools_accept(system: System, asked: argparse.Namespace) -> Answer:
    act = _act("tools.accepted", asked.server if asked.tool is None else f"{asked.server}/{asked.tool}")
    async with system.database() as database, audited(database, act) as connection:
        accepted = await tool_pins.accept(connection, asked.server, asked.tool, asked.digest)
        act.details["tools"] = accepted
    said = f"accepted: {', '.join(accepted)}" if accepted else "nothing had changed"
    return Answer({"server": asked.server, "accepted": accepted}, said)


async def _tools_forget(system: System, asked: argparse.Namespace) -> Answer:
    async with system.database() as database, audited(database, _act("tools.forgotten", asked.server)) as connection:
        count = await tool_pins.forget(connection, asked.server)
    return Answer({"server": asked.server, "forgotten": count}, f"forgotten: {count}; what it says next is trusted")


async def _purge_user(system: System, asked: argparse.Namespace) -> Answer:
    if not asked.yes:
        raise InvalidInputError("not_confirmed", f"this deletes everything of {asked.user!r} for good: add --yes")
    act = _act("user.purge_requested", asked.user)
    async with system.database() as database:
        async with audited(database, act, asked.user) as connection:
            requested = await request_purge(connection, asked.user, ActorKind.OPS)
            act.details["purge_id"] = str(requested.id)
        await system.purge(database, asked.user, requested.id)
        async with database.transaction(asked.user) as connection:
            purge = await find_purge(connection, asked.user, requested.id)
    deleted, is_finished = (purge.deleted, purge.finished_at is not None) if purge else ({}, True)
    table = _table([("DELETED", "ROWS"), *deleted.items()]) if deleted else "there was nothing"
    end = "finished" if is_finished else "the service looks again, for what was under way, and finishes it"
    facts = {"purge": requested.id, "deleted": deleted, "is_finished": is_finished}
    return Answer(facts, f"{table}\n{end}")


async def _purges(system: System, _: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        purges = await open_purges(connection)
    rows = [(purge.id, purge.user_id, _shown(purge.created_at), sum(purge.deleted.values())) for purge in purges]
    return Answer(purges, _table([("PURGE", "USER", "REQUESTED", "DELETED ROWS"), *rows]))


async def _audit(system: System, asked: argparse.Namespace) -> Answer:
    async with system.transaction() as connection:
        entries = await read_log(connection, before=asked.before, limit=asked.limit)
    rows = [
        (one.id, _shown(one.at), one.actor_kind.value, one.actor, one.action, one.target or "-", one.outcome)
        for one in entries
    ]
    return Answer(entries, _table([("ENTRY", "AT", "BY WAY OF", "WHO", "DID", "TO", "OUTCOME"), *rows]))


def _act(action: str, target: UUID | str) -> Act:
    return Act(command_line(), action, target=str(target))


# --- What was asked


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops", description="Look at jobs, dead letters and queues; help a stuck one.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    jobs = _add(commands, "jobs", _jobs, "how many jobs are in which state; with --state which they are")
    jobs.add_argument("--state", choices=lookup.JOB_STATES, metavar="STATE", help=", ".join(lookup.JOB_STATES))
    _add_limit(jobs)
    job = _add(commands, "job", _job, "the life of one job")
    job.add_argument("job", type=_job_id, metavar="ID")
    dead = _add(commands, "dead", _dead, "what the queues threw out; `dead requeue ID` runs its job again")
    _add_limit(dead)
    of_dead = dead.add_subparsers(metavar="requeue ID")
    dead_requeue = _add(of_dead, "requeue", _dead_requeue, "run the job of a dead letter again, and forget the letter")
    dead_requeue.add_argument("dead_letter", type=_uuid, metavar="ID")
    requeue = _add(commands, "requeue", _requeue, "hand a stuck job to the next attempt")
    requeue.add_argument("job", type=_job_id, metavar="JOB")
    fail = _add(commands, "fail", _fail, "end a job as failed")
    fail.add_argument("job", type=_job_id, metavar="JOB")
    fail.add_argument("--reason", required=True, type=_reason, metavar="TEXT", help="what its user reads")
    tools = _add(commands, "tools", _tools, "what tool servers say of their tools, and which of it is not accepted")
    tools.set_defaults(server=None)
    of_tools = tools.add_subparsers(metavar="list|accept|forget")
    tools_list = _add(of_tools, "list", _tools, "the tools on record, those that changed first")
    tools_list.add_argument("server", nargs="?", metavar="SERVER", help="of this server only")
    tools_accept = _add(
        of_tools, "accept", _tools_accept, "trust what a server says now of a tool, or of all its tools"
    )
    tools_accept.add_argument("server", metavar="SERVER")
    tools_accept.add_argument("tool", nargs="?", metavar="TOOL")
    tools_accept.add_argument("--digest", metavar="sha256:…", help="only if this is what `list` shows")
    tools_forget = _add(of_tools, "forget", _tools_forget, "trust what a server says next: it was replaced, or is gone")
    tools_forget.add_argument("server", metavar="SERVER")
    _add(commands, "queues", _queues, "what waits in the queues, and how many consume them")
    purge = _add(commands, "purge-user", _purge_user, "delete everything of a user for good")
    purge.add_argument("user", type=_user, metavar="USER", help="the subject of the user's tokens")
    purge.add_argument("--yes", action="store_true", help="really")
    _add(commands, "purges", _purges, "which purges are not finished")
    audit = _add(commands, "audit", _audit, "what administrators did, latest first")
    audit.add_argument("--before", type=_uuid, metavar="ENTRY", help="only what was before this entry")
    _add_limit(audit)
    return parser.parse_args(arguments)


def _add(commands: Any, name: str, run: _Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)
    return parser


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_limit, default=20, metavar="N", help="show so many at most (20)")


def _limit(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {_LIMIT_MAX}")
    return int(text)


def _job_id(text: str) -> UUID:
    """A job's id, as on the wire (`resp_…`) or as in the tables and logs."""
    if not text.startswith(f"{Prefix.RESPONSE.value}_"):
        return _uuid(text)
    try:
        return from_wire(Prefix.RESPONSE, text)
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no id") from error


def _reason(text: str) -> str:
    reason = text.strip()
    if not 0 < len(reason) <= _REASON_CHARS_MAX or "\0" in reason:
        raise argparse.ArgumentTypeError(f"expected 1 to {_REASON_CHARS_MAX} characters")
    return reason


def _user(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a user's id")
    return text


# --- Text


def _state_of(tool: tool_pins.PinnedTool) -> str:
    if not tool.is_changed:
        return "accepted"
    return "new" if tool.is_new else "changed"


def _state_line(state: overview.OpenJobs) -> tuple[str, int, str]:
    return state.state.value, state.count, _duration(state.oldest_seconds) if state.count else "-"


def _life(life: lookup.JobLife) -> str:
    journal = life.journal
    stored = f"{journal.first_seq} to {journal.last_seq}, " if journal.row_count else ""
    about = [
        ("job", life.id),
        ("state", life.state),
        *((name.replace("_", " "), _shown(value)) for name, value in life.facts.items()),
        ("journal", f"{stored}{journal.row_count} rows, {journal.packed_row_count} of them packed"),
        ("journal is missing", f"{journal.missing_count} events"),
        ("messages", str(life.message_count)),
        ("tool calls", str(life.tool_call_count)),
        ("dead letters", str(life.dead_letter_count)),
    ]
    steps = [(step.step, step.kind, step.index, step.attempt, _shown(step.created_at)) for step in life.steps]
    table = ["", _table([("STEP", "KIND", "CALL", "ATTEMPT", "AT"), *steps])] if steps else []
    return "\n".join([_table(about), *table])


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + " UTC"
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    """Two units at most: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 10:  # noqa: PLR2004 - from here on tenths tell nothing
        return f"{max(seconds, 0.0):.1f} s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    left = int(seconds)
    parts = []
    for name, size in units:
        count, left = divmod(left, size)
        parts.append((count, name))
    first = next(place for place, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2] if count)


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Columns under each other, numbers to the right."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    are_numbers = [all(isinstance(row[column], int) for row in rows[1:]) for column in range(len(widths))]
    return "\n".join(
        "  ".join(
            str(cell).rjust(width) if is_number else str(cell).ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
