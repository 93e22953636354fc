"""Tenants who do all that one can do here, with words of their own in all of it.

What they also have in common is meant to tempt: a word that everybody says and searches for, idempotency keys that
others use as well, files with the same content.
"""

import json
import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from shared.ids import Prefix, new_wire_id
from tests.support.stack import token_of
from tests.system.crosstalk.watch import Canaries
from tests.system.crosstalk.wire import Reply, Request

_COMMON = "lighthouse"
_KEYS_COMMON = 50
_FEED_SECONDS = 1.5
_KNOWN_MAX = 20
_ID = re.compile(rb'"((conv|resp|file|task|wh|msg)_[0-9a-f]{32})"')
_BOUNDARY = "next-part"


class Tenant:
    """One user. `hook_url`: of a server that takes webhooks."""

    def __init__(self, number: int, canaries: Canaries, chance: random.Random, hook_url: str) -> None:
        self.number = number
        self.user_id = canaries.name(number)
        self.chance = chance
        self._canaries = canaries
        self._hook_url = hook_url
        self._headers = {"authorization": f"Bearer {token_of(self.user_id)}"}
        self._known: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KNOWN_MAX))
        self._own = f"/api/{self.user_id}"
        self._deeds: dict[Callable[[], Request], int] = {
            self._respond: 8,
            self._follow: 3,
            self._chat: 5,
            self._complete: 4,
            self._have_a_tool_fail: 1,
            self._cancel: 1,
            self._look_at_a_response: 2,
            self._begin_conversation: 2,
            self._add_items: 1,
            self._name_conversation: 2,
            self._look_at_conversations: 5,
            self._look_into_a_conversation: 5,
            self._follow_conversations: 3,
            self._delete_conversation: 1,
            self._upload: 2,
            self._look_at_files: 3,
            self._keep_task: 2,
            self._look_at_tasks: 3,
            self._keep_endpoint: 1,
            self._look_at_endpoints: 2,
            self._export: 1,
            self._judge: 1,
            self.who_am_i: 3,
            self._make_a_mistake: 4,
        }

    def anything(self) -> Request:
        """The next thing to do, by chance."""
        [deed] = self.chance.choices(list(self._deeds), list(self._deeds.values()))
        return deed()

    def everything(self) -> list[Request]:
        """What shows all that the tenant has."""
        searches = (f"/v1/conversations?limit=100&search={word}" for word in (_COMMON, self._word("message")))
        lists = ("/v1/conversations?limit=100", "/v1/files?limit=100", "/v1/webhook_endpoints", f"{self._own}/tasks")
        return [*map(self._get, (*lists, *searches, f"{self._own}/export")), self.who_am_i()]

    def learn(self, reply: Reply) -> None:
        """Remember the ids of what is the tenant's own."""
        if reply.is_whole and reply.status in {200, 201}:
            for wire_id, kind in _ID.findall(bytes(reply.body)):
                self._known[kind.decode()].append(wire_id.decode())

    # Responses

    def _respond(self) -> Request:
        way: dict[str, Any] = self.chance.choice([{"stream": True}, {"stream": True}, {}, {"background": True}])
        body = {
            "model": "chat",
            "input": self._message(),
            "instructions": f"Be kind to {self._word('instructions')}",
            "metadata": {"topic": self._word("topic")},
            "user": self._word("enduser"),
            "prompt_cache_key": self.chance.choice([_COMMON, self._word("cache")]),
            **way,
        }
        if self.chance.random() < 0.4:
            body["conversation"] = self._some(Prefix.CONVERSATION)
        return self._post("/v1/responses", body, self._maybe_key())

    def _follow(self) -> Request:
        after = self.chance.choice(["", "&starting_after=3"])
        return self._get(f"/v1/responses/{self._some(Prefix.RESPONSE)}?stream=true{after}")

    def _look_at_a_response(self) -> Request:
        return self._get(f"/v1/responses/{self._some(Prefix.RESPONSE)}{self.chance.choice(['', '/input_items'])}")

    def _cancel(self) -> Request:
        return self._post(f"/v1/responses/{self._some(Prefix.RESPONSE)}/cancel", {})

    def _chat(self) -> Request:
        message = self.chance.choice([f"add a task: {self._word('title')} {_COMMON}", "show my tasks", self._message()])
        body: dict[str, Any] = {"message": message}
        if self.chance.random() < 0.3:
            body["conversation_id"] = self._some(Prefix.CONVERSATION)
        path = self.chance.choice(["/api/chat", f"{self._own}/chat"])
        return self._post(path, body, self._maybe_key())

    def _have_a_tool_fail(self) -> Request:
        arguments = json.dumps({"task_id": self._word("taskid"), "title": self._word("argument")})
        body = {"model": "todo", "input": f"[[demo: call=update_task args={arguments}]] {self._word('order')}"}
        return self._post("/v1/responses", body | {"stream": self.chance.random() < 0.5})

    def _complete(self) -> Request:
        messages = [
            {"role": "system", "content": self._word("system")},
            {"role": "user", "content": self._message()},
        ]
        body = {"model": "chat", "messages": messages, "user": self._word("enduser")}
        return self._post("/v1/chat/completions", body | {"stream": self.chance.random() < 0.6})

    def _judge(self) -> Request:
        body = {"rating": "negative", "reason": self._word("reason")}
        return self._send("PUT", f"/v1/responses/{self._some(Prefix.RESPONSE)}/feedback", body)

    # Conversations

    def _begin_conversation(self) -> Request:
        item = {"type": "message", "role": "user", "content": f"{_COMMON} {self._word('item')}"}
        return self._post("/v1/conversations", {"metadata": {"topic": self._word("metadata")}, "items": [item]})

    def _add_items(self) -> Request:
        item = {"type": "message", "role": "user", "content": f"{_COMMON} {self._word('added')}"}
        return self._post(f"/v1/conversations/{self._some(Prefix.CONVERSATION)}/items", {"items": [item]})

    def _name_conversation(self) -> Request:
        body = {"title": f"{self._word('named')} {_COMMON}", "metadata": {"mood": self._word("mood")}}
        return self._send("PATCH", f"/api/conversations/{self._some(Prefix.CONVERSATION)}", body)

    def _delete_conversation(self) -> Request:
        return self._send("DELETE", f"/v1/conversations/{self._some(Prefix.CONVERSATION)}", None)

    def _look_at_conversations(self) -> Request:
        searches = [f"?search={_COMMON}", f"?search={self._word('message')}", f"?search={self._word('named')}", ""]
        return self._get(self.chance.choice(["/v1/conversations", "/api/conversations"]) + self.chance.choice(searches))

    def _look_into_a_conversation(self) -> Request:
        wire_id = self._some(Prefix.CONVERSATION)
        place = self.chance.choice(["", "/items", "/responses", "/messages"])
        return self._get(f"{'/api' if place == '/messages' else '/v1'}/conversations/{wire_id}{place}")

    def _follow_conversations(self) -> Request:
        path = self.chance.choice(["/v1/events", f"/v1/conversations/{self._some(Prefix.CONVERSATION)}/events"])
        return self._request("GET", path, seconds_max=_FEED_SECONDS)

    # Files, tasks, webhooks, the account

    def _upload(self) -> Request:
        content = self.chance.choice([_COMMON, f"{self._word('content')} " * self.chance.randrange(1, 2_000)])
        lines = (
            f"--{_BOUNDARY}",
            'content-disposition: form-data; name="purpose"',
            "",
            "user_data",
            f"--{_BOUNDARY}",
            f'content-disposition: form-data; name="file"; filename="{self._word("filename")}.txt"',
            "content-type: text/plain",
            "",
            content,
            f"--{_BOUNDARY}--",
            "",
        )
        headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        return self._request("POST", "/v1/files", "\r\n".join(lines).encode(), headers)

    def _look_at_files(self) -> Request:
        wire_id = self._some(Prefix.FILE)
        return self._get(self.chance.choice(["/v1/files", f"/v1/files/{wire_id}", f"/v1/files/{wire_id}/content"]))

    def _keep_task(self) -> Request:
        body = {"title": f"{self._word('todo')} {_COMMON}", "description": self._word("description")}
        if self.chance.random() < 0.7:
            return self._post(f"{self._own}/tasks", body)
        return self._send("PUT", f"{self._own}/tasks/{self._some(Prefix.TASK)}", body)

    def _look_at_tasks(self) -> Request:
        return self._get(self.chance.choice([f"{self._own}/tasks", f"{self._own}/tasks/{self._some(Prefix.TASK)}"]))

    def _keep_endpoint(self) -> Request:
        return self._post(
            "/v1/webhook_endpoints", {"url": f"{self._hook_url}/{self.user_id}", "name": self._word("endpoint")}
        )

    def _look_at_endpoints(self) -> Request:
        deliveries = f"/v1/webhook_endpoints/{self._some(Prefix.WEBHOOK)}/deliveries"
        return self._get(self.chance.choice(["/v1/webhook_endpoints", deliveries]))

    def _export(self) -> Request:
        return self._get(f"{self._own}/export")

    def who_am_i(self) -> Request:
        return self._request("GET", "/session", names_sender=True)

    def _make_a_mistake(self) -> Request:
        """Each is answered with an error, most of which quote some of what was wrong."""
        broken = f'{{"model": "chat", "input": "{self._word("broken")}'.encode()
        return self.chance.choice(
            [
                self._post("/v1/responses", {"model": self._word("model"), "input": "hello"}),
                self._post("/v1/responses", {"model": "chat", "input": [{"type": self._word("kind")}]}),
                self._post("/v1/chat/completions", {"model": self._word("model"), "messages": [{"role": "user"}]}),
                self._request("POST", "/v1/responses", broken, {"content-type": "application/json"}),
                self._get(f"/v1/conversations?after={self._word('cursor')}"),
                self._get(f"/v1/responses/{self._word('id')}"),
                self._get(f"/v1/{self._word('path')}"),
                self._post("/v1/responses", {"model": "chat", "input": f"[[demo: fault=400]] {self._word('refused')}"}),
            ]
        )

    # Requests

    def _get(self, path: str) -> Request:
        return self._request("GET", path)

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Request:
        return self._send("POST", path, body, headers)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None = None
    ) -> Request:
        encoded = b"" if body is None else json.dumps(body).encode()
        return self._request(method, path, encoded, {"content-type": "application/json", **(headers or {})})

    def _request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, **more: Any
    ) -> Request:
        return Request(self.number, method, path, self._headers | dict(headers or {}), body, **more)

    def _word(self, place: str) -> str:
        return self._canaries.word(self.number, place)

    def _message(self) -> str:
        words = f"{_COMMON} {self._word('message')} " * self.chance.randrange(1, 12)
        return f"[[demo: echo]] {words}{self.chance.randrange(10**6)}"

    def _maybe_key(self) -> dict[str, str]:
        common = f"{_COMMON}-{self.chance.randrange(_KEYS_COMMON)}"
        own = f"{self._word('key')}-{self.chance.randrange(10**6)}"
        return self.chance.choice([{}, {"idempotency-key": own}, {"idempotency-key": common}])

    def _some(self, kind: Prefix) -> str:
        """The id of something of the tenant's; of nothing, as long as there is nothing."""
        known = self._known[kind]
        return self.chance.choice(known) if known else new_wire_id(kind)
