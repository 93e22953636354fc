"""Webhooks: whoever wants to hear of the ends of responses is told, at least once.

What is to be told is stored by the statement that ends the job (`ENQUEUE`), and sent afterwards by whichever process
claims it (`Sender`). A claim is a loan of some seconds: who dies with it loses it to the next. Every attempt at a
delivery has the same body and the same id, by which a receiver knows that it had it before. No transaction is open
while somebody is asked, and nothing that a receiver says is kept but its status.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from uuid import UUID

import asyncpg
import httpx2
import msgspec

from persistence import counts
from shared.db import Database, Row
from shared.db.errors import described
from shared.errors import DatabaseUnavailableError, InvalidInputError
from shared.events import JsonObject
from shared.ids import Prefix, to_wire, uuid7
from shared.observability import get_logger
from shared.states import JobStatus
from shared.supervision import supervised

log = get_logger()

DEPLOYMENT_ENDPOINT_ID = UUID(int=0)  # of the one endpoint that the settings name
EVENT_TYPES = ("response.completed", "response.failed", "response.incomplete", "response.cancelled")
SECRET_PREFIX = "whsec_"  # noqa: S105
USER_AGENT = "Parley-Webhooks/1"

_NOTE_SECONDS = 30.0  # what a claim lasts beyond its request, to note how that went
_JITTER = 0.2  # retries come up to so much later, or two that failed together would meet again


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the sender; `retry_delays_seconds` are the pauses between attempts, so there is one attempt more."""

    round_seconds: float
    concurrency: int
    endpoint_concurrency: int
    timeout_seconds: float
    answer_bytes_max: int
    retry_delays_seconds: Sequence[float]
    retry_after_seconds_max: float
    disable_after_seconds: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery to attempt now; `attempt` is the fence of what is noted about it."""

    event_id: UUID
    endpoint_id: UUID
    url: str
    body: str
    attempt: int
    secrets: tuple[str, ...]
    claimed_at: int  # by the clock of Postgres, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt went: the receiver's status, or an error's slug where there is none."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: float = 0.0

    @property
    def is_success(self) -> bool:
        return self.status is not None and HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        return self.status == HTTPStatus.GONE


# Stores what the ends of the jobs of `ended` have to tell, in the statement that ends them. Takes no lock on endpoints:
# one that is deleted at this moment leaves a delivery that nobody claims.
ENQUEUE = """
    insert into webhook_deliveries (event_id, endpoint_id, user_id, job_id, type, body)
    select v.event_id, e.id, ended.user_id, ended.id, v.type, v.body
    from jsonb_to_recordset({events}) v(event_id uuid, job_id uuid, type text, body text)
    join ended on ended.id = v.job_id
    join webhook_endpoints e on e.user_id = ended.user_id or e.user_id is null
    where e.disabled_at is null and v.type = any(e.event_types)
    returning event_id
"""


def event_of(job_id: UUID, status: JobStatus) -> JsonObject:
    """What `ENQUEUE` takes of the end of a job."""
    event_id, kind = uuid7(), f"response.{status}"
    return {"event_id": event_id, "job_id": job_id, "type": kind, "body": _body(event_id, job_id, kind)}


async def keep_deployment_endpoint(database: Database, url: str | None, secret: str | None) -> None:
    """Make the deployment's endpoint what the settings say: this one, or none. It hears of the jobs of all users."""
    async with database.transaction(None) as connection:
        if url is None:
            await connection.execute("delete from webhook_endpoints where id = $1", DEPLOYMENT_ENDPOINT_ID)
            return
        await connection.execute(
            """
            insert into webhook_endpoints (id, url, secret, event_types) values ($1, $2, $3, $4)
            on conflict (id) do update
            set url = excluded.url, secret = excluded.secret, event_types = excluded.event_types,
                updated_at = clock_timestamp()
            """,
            DEPLOYMENT_ENDPOINT_ID,
            url,
            secret,
            EVENT_TYPES,
        )


def signing_key(secret: str) -> bytes:
    """The key in `secret`: base64 behind `whsec_`, or else its own bytes. Raises ValueError for bad base64."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64 behind {SECRET_PREFIX!r}") from error


def signed_headers(event_id: str, body: str, secrets: Sequence[str], sent_at: int) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature for each of `secrets`, as of `sent_at` (Unix time)."""
    content = f"{event_id}.{sent_at}.{body}".encode()
    digests = [hmac.new(signing_key(secret), content, hashlib.sha256).digest() for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


class Sender:
    """Attempts what is due, until stopped. Several processes share the work."""

    def __init__(self, database: Database, client: httpx2.AsyncClient, limits: Limits) -> None:
        """`client` decides which addresses may be asked; see `shared.egress`."""
        self._database = database
        self._client = client
        self._limits = limits
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[None]] = set()
        self._busy: Counter[UUID] = Counter()  # attempts under way, by endpoint
        # However many answers come at once, they take one of the process's few connections.
        self._turn = asyncio.Lock()

    def start(self) -> None:
        self._task = supervised(self._run(), "webhooks")

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; let attempts under way end, within `seconds`. Others make the rest once more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=seconds)
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    def wake(self) -> None:
        """Look again at what is due, now."""
        self._wake.set()

    async def run_once(self) -> int:
        """Attempt what is due now, as far as there is room, and wait for the answers; returns how many attempts."""
        count = await self._start_some()
        await asyncio.gather(*self._attempts)
        return count

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            count = 0
            try:
                count = await self._start_some()
            except DatabaseUnavailableError:
                pass  # said already
            except Exception as error:  # noqa: BLE001
                log.error("webhooks_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
            if not count:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._limits.round_seconds)

    async def _start_some(self) -> int:
        room = self._limits.concurrency - len(self._attempts)
        if room <= 0:
            return 0
        claimed = await self._claim(room)
        for delivery in claimed:
            self._busy[delivery.endpoint_id] += 1
            attempt = asyncio.create_task(self._attempt(delivery))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
        return len(claimed)

    async def _attempt(self, delivery: Claimed) -> None:
        try:
            answer = await self._post(delivery)
            counts.WEBHOOK_ATTEMPTS.labels("delivered" if answer.is_success else "failed").inc()
            async with self._turn, self._database.transaction(None) as connection:
                await self._note(connection, delivery, answer)
        except DatabaseUnavailableError:
            pass  # said already; the claim runs out, and it is attempted again
        except Exception as error:  # noqa: BLE001
            log.error("webhook_failed", **_ids(delivery), **described(error))  # noqa: TRY400 - it may quote the body
        finally:
            self._busy[delivery.endpoint_id] -= 1
            if not self._busy[delivery.endpoint_id]:
                del self._busy[delivery.endpoint_id]
            self._wake.set()

    async def _claim(self, count_max: int) -> list[Claimed]:
        """Take what is due of any endpoint that is not busy enough yet, and count the attempts."""
        async with self._turn, self._database.transaction(None) as connection:
            rows = await connection.fetch(
                """
                -- Where anything is due: from endpoint to endpoint along the index, however much waits at each. `now()`
                -- can be looked up in an index, `clock_timestamp()` cannot.
                with recursive waiting as (
                    (select endpoint_id from webhook_deliveries
                     where next_attempt_at is not null
                       and exists (select from webhook_deliveries where next_attempt_at <= now())
                     order by endpoint_id limit 1)
                    union all
                    select (select d.endpoint_id from webhook_deliveries d
                            where d.next_attempt_at is not null and d.endpoint_id > w.endpoint_id
                            order by d.endpoint_id limit 1)
                    from waiting w where w.endpoint_id is not null
                ), endpoints as materialized (
                    select e.id, $3 - coalesce(busy.count, 0) as room
                    from waiting w
                    join webhook_endpoints e on e.id = w.endpoint_id and e.disabled_at is null
                    left join unnest($1::uuid[], $2::integer[]) busy(endpoint_id, count) on busy.endpoint_id = e.id
                    where $3 > coalesce(busy.count, 0)
                    order by random()
                ), due as materialized (
                    select d.endpoint_id, d.event_id
                    from endpoints e
                    cross join lateral (
                        select d.endpoint_id, d.event_id from webhook_deliveries d
                        where d.endpoint_id = e.id and d.next_attempt_at <= now()
                        order by d.next_attempt_at limit e.room for update skip locked) d
                    limit $4
                )
                update webhook_deliveries d
                set attempts = d.attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => $5)
                from due join webhook_endpoints e on e.id = due.endpoint_id
                where d.endpoint_id = due.endpoint_id and d.event_id = due.event_id
                returning d.event_id, d.endpoint_id, d.body, d.attempts, e.url, e.secret,
                          case when e.previous_secret_until > clock_timestamp() then e.previous_secret end
                              as previous_secret,
                          extract(epoch from clock_timestamp())::bigint as claimed_at
                """,
                list(self._busy.keys()),
                list(self._busy.values()),
                self._limits.endpoint_concurrency,
                count_max,
                self._limits.timeout_seconds + _NOTE_SECONDS,
            )
        return [_claimed(row) for row in rows]

    async def _post(self, delivery: Claimed) -> Answer:
        event_id = to_wire(Prefix.WEBHOOK_EVENT, delivery.event_id)
        headers = signed_headers(event_id, delivery.body, delivery.secrets, delivery.claimed_at)
        headers["content-type"] = "application/json"
        try:
            async with (
                asyncio.timeout(self._limits.timeout_seconds),
                self._client.stream("POST", delivery.url, content=delivery.body, headers=headers) as response,
            ):
                await _skim(response, self._limits.answer_bytes_max)
                return Answer(response.status_code, retry_after_seconds=_retry_after_seconds(response))
        except InvalidInputError as error:
            return Answer(error=error.code)
        except (TimeoutError, httpx2.TimeoutException):
            return Answer(error="timeout")
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return Answer(error="connection_failed")

    async def _note(self, connection: asyncpg.Connection, delivery: Claimed, answer: Answer) -> None:
        """Write down how it went. Endpoints are locked before deliveries, as where an endpoint is deleted."""
        delay = self._delay_seconds(delivery, answer)
        if answer.is_success:
            await _forgive(connection, delivery)
        elif await self._blame(connection, delivery, answer):
            log.warning("webhook_endpoint_disabled", **_ids(delivery), status=answer.status, cause=answer.error)
        noted = await connection.execute(
            """
            update webhook_deliveries
            set last_status = $4, last_error = $5,
                delivered_at = case when $6 then clock_timestamp() end,
                next_attempt_at = clock_timestamp() + make_interval(secs => $7::double precision)
            where endpoint_id = $1 and event_id = $2 and attempts = $3
            """,
            delivery.endpoint_id,
            delivery.event_id,
            delivery.attempt,
            answer.status,
            answer.error,
            answer.is_success,
            delay,
        )
        if noted == "UPDATE 1" and delay is None and not answer.is_success:
            log.warning("webhook_given_up", **_ids(delivery), attempt=delivery.attempt, status=answer.status)
        log.debug("webhook_attempted", **_ids(delivery), attempt=delivery.attempt, status=answer.status)

    def _delay_seconds(self, delivery: Claimed, answer: Answer) -> float | None:
        """When to attempt it again; None: never."""
        delays = self._limits.retry_delays_seconds
        if answer.is_success or answer.is_gone or delivery.attempt > len(delays):
            return None
        delay = delays[delivery.attempt - 1] * (1 + random.random() * _JITTER)  # noqa: S311
        return max(delay, min(answer.retry_after_seconds, self._limits.retry_after_seconds_max))

    async def _blame(self, connection: asyncpg.Connection, delivery: Claimed, answer: Answer) -> bool:
        """Count a failure of the endpoint; whether it is disabled by that. The deployment's own one never is."""
        row = await connection.fetchrow(
            """
            update webhook_endpoints e
            set failure_count = e.failure_count + 1,
                failing_since = coalesce(e.failing_since, clock_timestamp()),
                disabled_at = case when v.reason is null then e.disabled_at else clock_timestamp() end,
                disabled_reason = coalesce(v.reason, e.disabled_reason)
            from (select o.id, case when o.user_id is null or o.disabled_at is not null then null
                                    when $2 then 'gone'
                                    when o.failing_since < clock_timestamp() - make_interval(secs => $3) then 'failing'
                               end as reason
                  from webhook_endpoints o where o.id = $1 for no key update) v
            where e.id = v.id
            returning v.reason is not null as is_disabled
            """,
            delivery.endpoint_id,
            answer.is_gone,
            self._limits.disable_after_seconds,
        )
        return row is not None and row["is_disabled"]


async def _forgive(connection: asyncpg.Connection, delivery: Claimed) -> None:
    await connection.execute(
        "update webhook_endpoints set failure_count = 0, failing_since = null where id = $1 and failure_count > 0",
        delivery.endpoint_id,
    )


async def _skim(response: httpx2.Response, bytes_max: int) -> None:
    """Take a short answer in, so that its sender sees it taken; of a long one no more than `bytes_max`, roughly."""
    count = 0
    with suppress(httpx2.HTTPError):  # the status is what counts, and that is here
        async for part in response.aiter_raw():
            count += len(part)
            if count >= bytes_max:
                return


def _retry_after_seconds(response: httpx2.Response) -> float:
    """What the answer asks for, as seconds or as a date; 0 where it asks for nothing, or not understandably."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def _claimed(row: Row) -> Claimed:
    return Claimed(
        event_id=row["event_id"],
        endpoint_id=row["endpoint_id"],
        url=row["url"],
        body=row["body"],
        attempt=row["attempts"],
        secrets=tuple(filter(None, (row["secret"], row["previous_secret"]))),
        claimed_at=row["claimed_at"],
    )


def _body(event_id: UUID, job_id: UUID, kind: str) -> str:
    return msgspec.json.encode(
        {
            "id": to_wire(Prefix.WEBHOOK_EVENT, event_id),
            "object": "event",
            "created_at": int(time.time()),
            "type": kind,
            "data": {"id": to_wire(Prefix.RESPONSE, job_id)},
        }
    ).decode()


def _ids(delivery: Claimed) -> dict[str, str]:
    """For the log; the URL may hold a secret."""
    return {"event_id": str(delivery.event_id), "endpoint_id": str(delivery.endpoint_id)}
