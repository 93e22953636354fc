"""Who is shut out though the token holds: denied subjects and tokens, after a logout or for abuse.

Every gateway has all denials in memory and asks Postgres each second what changed: no request waits for that, and while
Postgres is away the last answer counts. What happens here takes effect here at once, at the others a moment later.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from gateway.auth import User
from gateway.settings import GatewaySettings
from gateway.until import Until
from shared.db import Database, Row
from shared.db.audit import Act, record
from shared.errors import DatabaseUnavailableError, LimitExceededError, NotAuthenticatedError, PermissionDeniedError
from shared.ids import uuid7
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

# How far back each look goes again: longer than a transaction takes, as its changes carry the time before its commit.
_OVERLAP_SECONDS = 60.0
# So often everything is read again: what is over is forgotten, and what was missed is not missed for ever.
_WHOLE_LOOK_SECONDS = 600.0


class Kind(StrEnum):
    SUBJECT = "subject"
    TOKEN = "token"  # noqa: S105 - a word


Key: TypeAlias = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Denial:
    """`value`, a user's or a token's id, is shut out until `until` (seconds since the epoch; infinite: till lifted)."""

    id: UUID
    kind: Kind
    value: str
    reason: str
    created_by: str
    created_at: datetime
    until: float

    @property
    def is_over(self) -> bool:
        return self.until <= time.time()


class Denials:
    """All denials there are. One per process: `start` it before the first request, `stop` it at the end."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._refresh_seconds = settings.denials_refresh_seconds
        self._token_seconds_max = settings.jwt_lifetime_seconds_max + 2 * settings.jwt_leeway_seconds
        self._per_user_max = settings.logouts_per_user_max
        self._until: dict[Key, float] = {}
        self._watchers: defaultdict[Key, set[Until]] = defaultdict(set)
        self._looked_at: datetime | None = None  # by the clock of Postgres, as the next
        self._whole_look_at = datetime.min.replace(tzinfo=UTC)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when all denials are known. Raises DatabaseUnavailableError."""
        await self._look()
        self._task = supervised(self._run(), "denials")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check(self, user: User) -> None:
        """Raises PermissionDeniedError (`user_denied`), or NotAuthenticatedError (`token_denied`): get a new one."""
        now = time.time()
        if self._until.get((Kind.SUBJECT, user.id), 0.0) > now:
            raise PermissionDeniedError("user_denied", "This user is shut out; please talk to the operator.")
        if any(self._until.get((Kind.TOKEN, token_id), 0.0) > now for token_id in user.token_ids):
            raise NotAuthenticatedError("token_denied", "The access token was revoked; get a new one.")

    def of(self, user: User) -> "ShutOut":
        """That `check` would raise for the user, as an ending of what is done for the user."""
        return ShutOut(self, _keys_of(user))

    def watch(self, keys: Sequence[Key], until: Until) -> None:
        """As `Ending.watch`, for when one of `keys` is denied."""
        for key in keys:
            self._watchers[key].add(until)
        if any(self._until.get(key, 0.0) > time.time() for key in keys):
            until.end()  # it was, since the request was checked

    def forget(self, keys: Sequence[Key], until: Until) -> None:
        for key in keys:
            self._watchers[key].discard(until)
            if not self._watchers[key]:
                del self._watchers[key]

    @asynccontextmanager
    async def guarded(self, user: User) -> AsyncIterator[None]:
        """What is done inside is broken off once the user is shut out; then raises as `check`."""
        async with Until(self.of(user)) as until:
            yield
        if until.has_broken_off:
            self.check(user)
            raise TimeoutError  # the denial was lifted in this very moment; but what was done is lost

    async def deny(  # noqa: PLR0913 - facts of a denial each, but `act`
        self,
        denier_id: str,
        kind: Kind,
        value: str,
        *,
        reason: str,
        until: float | None = None,
        act: Act | None = None,
    ) -> Denial:
        """Shut out `value`; where it is already, with these facts from now on. `act` is for the audit log.

        Without `until`, a user for ever, and a token for as long as any can be good by the clock of Postgres.
        """
        async with self._database.transaction(denier_id) as connection:
            row = await connection.fetchrow(
                """
                insert into denials (id, kind, value, reason, created_by, until)
                values ($1, $2, $3, $4, $5,
                        coalesce(to_timestamp($6::float8), clock_timestamp() + make_interval(secs => $7), 'infinity'))
                on conflict (kind, value) do update
                set reason = excluded.reason, created_by = excluded.created_by, until = excluded.until,
                    changed_at = clock_timestamp()
                returning id, kind, value, reason, created_by, created_at,
                          extract(epoch from until)::float8 as until
                """,
                uuid7(),
                kind,
                value,
                reason,
                denier_id,
                until,
                self._token_seconds_max if kind is Kind.TOKEN else None,
            )
            if act is not None:
                await record(connection, act)
        denial = _denial(row)
        self._apply([denial])
        return denial

    async def log_out(self, user: User, leeway_seconds: float) -> None:
        """Shut out the token that the user showed, for as long as it would be good.

        Raises LimitExceededError (`too_many_logouts`) where this user did so too often lately.
        """
        async with self._database.transaction(user.id) as connection:
            count = await connection.fetchval(
                "select count(*) from (select from denials where created_by = $1 and until > now() limit $2) own",
                user.id,
                self._per_user_max,
            )
        if count >= self._per_user_max:
            message = "Too many logouts: the tokens will end by themselves."
            raise LimitExceededError("too_many_logouts", message, retry_after_seconds=60)
        until = user.expires_at + leeway_seconds
        await self.deny(user.id, Kind.TOKEN, user.token_ids[0], reason="logout", until=until)

    async def lift(self, operator_id: str, denial_id: UUID, act: Act) -> bool:
        """End a denial now. False: there is none, or it is over. `act` is for the audit log."""
        async with self._database.transaction(operator_id) as connection:
            row = await connection.fetchrow(
                """
                update denials set until = clock_timestamp(), changed_at = clock_timestamp(), created_by = $2
                where id = $1 and until > clock_timestamp()
                returning id, kind, value, reason, created_by, created_at,
                          extract(epoch from until)::float8 as until
                """,
                denial_id,
                operator_id,
            )
            if row is not None:
                await record(connection, act)
        if row is None:
            return False
        self._until.pop((Kind(row["kind"]), row["value"]), None)
        return True

    async def page(self, limit: int, offset: int, *, value: str | None = None) -> list[Denial]:
        """Denials that hold, the newest first; only those of `value`, if given."""
        async with self._database.transaction(None) as connection:
            rows = await connection.fetch(
                """
                select id, kind, value, reason, created_by, created_at, extract(epoch from until)::float8 as until
                from denials
                where until > clock_timestamp() and ($3::text is null or value = $3)
                order by id desc limit $1 offset $2
                """,
                limit,
                offset,
                value,
            )
        return [_denial(row) for row in rows]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            with suppress(DatabaseUnavailableError):  # it is logged already
                await self._look()

    async def _look(self) -> None:
        """Take in what changed since the last look; now and then, all there is."""
        since = self._looked_at
        if since is not None and since - self._whole_look_at > timedelta(seconds=_WHOLE_LOOK_SECONDS):
            since = None
        known = list(self._until)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                """
                select n.now, d.id, d.kind, d.value, d.reason, d.created_by, d.created_at,
                       extract(epoch from d.until)::float8 as until
                from (select clock_timestamp() as now) n
                left join denials d
                on d.changed_at > coalesce($1::timestamptz - make_interval(secs => $2), '-infinity')
                """,
                since,
                _OVERLAP_SECONDS,
            )
        self._looked_at = rows[0]["now"]
        if since is None:
            self._whole_look_at = rows[0]["now"]
            for key in known:  # but for those that were denied here meanwhile
                self._until.pop(key, None)
        self._apply(_denial(row) for row in rows if row["id"] is not None)

    def _apply(self, denials: Iterable[Denial]) -> None:
        for denial in denials:
            key = (denial.kind, denial.value)
            if denial.is_over:
                self._until.pop(key, None)
                continue
            self._until[key] = denial.until
            for until in self._watchers.get(key, ()):
                until.end()


class ShutOut:
    """A user is shut out, or the token that the user came with."""

    __slots__ = ("_denials", "_keys")

    def __init__(self, denials: Denials, keys: Sequence[Key]) -> None:
        self._denials = denials
        self._keys = keys

    def watch(self, until: Until) -> None:
        self._denials.watch(self._keys, until)

    def forget(self, until: Until) -> None:
        self._denials.forget(self._keys, until)


def _keys_of(user: User) -> Sequence[Key]:
    return ((Kind.SUBJECT, user.id), *((Kind.TOKEN, token_id) for token_id in user.token_ids))


def _denial(row: Row) -> Denial:
    return Denial(
        id=row["id"],
        kind=Kind(row["kind"]),
        value=row["value"],
        reason=row["reason"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        until=row["until"],
    )
