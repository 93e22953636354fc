"""A call that comes again has its effect once: its result is stored with the effect, under the caller's key."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp.server.context import ServerRequestContext
from pydantic import BaseModel

from shared.errors import InvalidInputError, KeyReusedError
from shared.faults import sabotaged

META_KEY = "parley/idempotency-key"
ResultT = TypeVar("ResultT", bound=BaseModel)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A tool call with its key; two calls are the same if their tool and their arguments are."""

    key: str
    tool_name: str
    arguments_hash: bytes


def keyed_call(request: ServerRequestContext[Any, Any]) -> KeyedCall | None:
    """The call of `request` if its `_meta` has a key. Raises InvalidInputError if that is no key."""
    key = (request.meta or {}).get(META_KEY)
    if key is None:
        return None
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise InvalidInputError(
            "idempotency_key_invalid",
            "The idempotency key must be 1 to 255 printable ASCII characters.",
            param=META_KEY,
        )
    params: Mapping[str, Any] = request.params or {}
    return KeyedCall(key, str(params.get("name")), _hash_of(params.get("arguments")))


async def once(
    db: Any, user_id: str, call: KeyedCall, result_type: type[ResultT], effect: Callable[[], Awaitable[ResultT]]
) -> ResultT:
    """What `effect` returns, or what it returned when this call was made before, in which case it does not run.

    All in the caller's transaction: effect and key are committed together or not at all. An effect that raises leaves
    the key unused. Raises KeyReusedError if the key was used by another call.
    """
    if sabotaged("idempotency"):
        return await effect()
    # A second call under the key waits here until the first has ended; then it sees the first one's row.
    await db.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"{user_id} {call.key}")
    earlier = await db.fetchrow(
        "select tool_name, arguments_hash, result from idempotency_keys where user_id = $1 and key = $2",
        user_id,
        call.key,
    )
    if earlier is not None:
        if (earlier["tool_name"], earlier["arguments_hash"]) != (call.tool_name, call.arguments_hash):
            raise KeyReusedError("idempotency_key_reused", "This idempotency key was used for another call.")
        return result_type.model_validate(earlier["result"])
    result = await effect()
    await db.execute(
        "insert into idempotency_keys (user_id, key, tool_name, arguments_hash, result) values ($1, $2, $3, $4, $5)",
        user_id,
        call.key,
        call.tool_name,
        call.arguments_hash,
        result.model_dump(mode="json"),
    )
    return result


def _hash_of(arguments: Any) -> bytes:
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).digest()
