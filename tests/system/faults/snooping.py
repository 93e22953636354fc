"""A user who tries to see what is another's: every route that reads, with every id that there is to guess."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.ids import Prefix, new_wire_id
from tests.system.faults.history import Seen, Talker

_NOT_OF_A_USER = ("/health/", "/api/admin/", "/v1/shares/")  # a share is of whoever knows its token
_NO_TOKEN = "A" * 43
_HTTP_OK = 200


@dataclass(frozen=True)
class Belongings:
    """One of everything that a user can have, by the parameter that names it in a path; `words` are in each of it.

    A purge takes all the rest away, so nobody has one: its id is of nothing.
    """

    user_id: str
    ids: Mapping[str, str]
    words: str

    def unknown(self) -> "Belongings":
        """As many ids of the same kinds, of nothing."""
        kinds = {name: Prefix(wire_id.partition("_")[0]) for name, wire_id in self.ids.items()}
        return Belongings("nobody", {name: new_wire_id(kind) for name, kind in kinds.items()}, self.words)


@dataclass(frozen=True)
class Guess:
    """A request that reads."""

    path: str
    params: Mapping[str, str]


async def settle_in(user: Talker) -> Belongings:
    """Have `user` own one of everything, with the user's canary in it."""
    words = user.canary()
    said = await user.say(f"add a task: {words}", model="todo")
    await user.follow(said)
    file = await _made(
        user, "/v1/files", files={"file": (f"{words}.txt", words.encode())}, data={"purpose": "user_data"}
    )
    endpoint = {"name": words, "url": "https://example.com/hook", "event_types": ["response.failed"]}
    endpoint = await _made(user, "/v1/webhook_endpoints", json=endpoint)
    opinion = {"rating": "positive", "reason": words}
    await _made(user, f"/v1/responses/{said.response_id}/feedback", method="PUT", json=opinion)
    await _made(user, f"/v1/conversations/{said.conversation_id}/shares", json={})
    [task] = _read(await user.see(f"/api/{user.user_id}/tasks"))["tasks"]
    items = _read(await user.see(f"/v1/conversations/{said.conversation_id}/items"))["data"]
    ids = {
        "response_id": said.response_id,
        "conversation_id": said.conversation_id,
        "item_id": items[0]["id"],
        "task_id": task["id"],
        "file_id": file["id"],
        "endpoint_id": endpoint["id"],
        "purge_id": new_wire_id(Prefix.PURGE),
    }
    return Belongings(user.user_id, ids, words)


async def guesses(user: Talker, goal: Belongings) -> list[Guess]:
    """Every route that reads, as the gateway documents them, at what belongs to whoever `goal` belongs to.

    Lists are also searched for the words, and asked for what comes after each of the ids.
    """
    document = _read(await user.see("/openapi.json"))
    known = {**goal.ids, "user_id": user.user_id, "subject": goal.user_id, "model": "chat", "token": _NO_TOKEN}
    return [
        guess
        for path, operations in document["paths"].items()
        if "get" in operations
        for guess in _of_route(path, operations["get"].get("parameters", []), known, goal)
    ]


def _of_route(path: str, parameters: list[Any], known: Mapping[str, str], goal: Belongings) -> Iterator[Guess]:
    names = {where: {one["name"] for one in parameters if one["in"] == where} for where in ("path", "query")}
    queries: list[dict[str, str]] = [{}]
    if "stream" in names["query"]:
        queries.append({"stream": "true"})
    if "search" in names["query"]:
        queries.append({"search": goal.words})
    if "after" in names["query"]:
        queries += [{"after": wire_id} for wire_id in goal.ids.values()]
    # A parameter that is not known here belongs to a kind of thing that `settle_in` does not make yet.
    at = path.format_map({name: known[name] for name in names["path"]})
    yield from (Guess(at, query) for query in queries)


def is_of_a_user(seen: Seen) -> bool:
    """Whether there is something to see by this request, for whom it belongs to."""
    path = seen.request.removeprefix("GET ")
    return not path.startswith(_NOT_OF_A_USER) and "/purges/" not in path and "after=" not in path


async def snoop(user: Talker, goal: Belongings) -> list[Seen]:
    """What `user` is shown to each of the guesses, in their order."""
    return [await user.see(guess.path, params=guess.params) for guess in await guesses(user, goal)]


async def _made(user: Talker, path: str, *, method: str = "POST", **sent: Any) -> Any:
    return _read(await user.see(path, method=method, **sent))


def _read(seen: Seen) -> Any:
    assert seen.status == _HTTP_OK, seen
    return json.loads(seen.body)
