"""Small loads that have something of everything: text and tools, several users, waiting turns, readers that resume."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from tests.support.backends import Backends
from tests.support.stack import ServiceProcess, Stack
from tests.support.waiting import wait_until
from tests.system.faults.checker import Effect, check, leaks
from tests.system.faults.history import PATIENCE_SECONDS, History, Said, Talker
from tests.system.faults.snapshot import Held, Snapshot, held_by, settled

# Seconds that are minutes elsewhere: a test waits for the repairs that an operator would sleep through.
QUICK_REPAIRS = {
    "CHAT_WORKER_LEASE_SECONDS": "4",
    "CHAT_WORKER_RELEASE_DELAYS_SECONDS": "[0.2, 0.5, 1.0]",
    "CHAT_WORKER_ATTEMPTS_MAX": "8",
    "CHAT_WORKER_GRACE_SECONDS": "3",
    "CHAT_WORKER_RESUME_ASK_SECONDS": "0.5",
    "PUBLISH_TIMEOUT_SECONDS": "2",
    "PERSISTENCE_MAINTENANCE_SECONDS": "0.5",
    "PERSISTENCE_DISPATCH_GRACE_SECONDS": "1",
    "PERSISTENCE_WIPED_BROKER_GRACE_SECONDS": "2",
    "PERSISTENCE_LEASE_GRACE_SECONDS": "0.5",
    "GATEWAY_HEARTBEAT_SECONDS": "2",
    "GATEWAY_SEND_TIMEOUT_SECONDS": "2",
    "GATEWAY_STREAMS_PER_USER_MAX": "8",
}


# With this heartbeat the broker drops a silent peer after two of them, and a client after three.
HALF_OPEN_SECONDS = 2
# What has RabbitMQ block whoever publishes, and what ends that: too little memory left, too little disk.
ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.0000001"), ("set_vm_memory_high_watermark", "0.6")),
    "disk": (("set_disk_free_limit", "mem_relative", "1000.0"), ("set_disk_free_limit", "50MB")),
}
_LET_GO_SECONDS = 15.0


class Arena:
    """One attack: two users on a stack, their history, and the verdict.

    The users of a `former` one come with all that they saw there. `patience_seconds` is how long users wait for
    anything: longer than all faults together take.
    """

    def __init__(
        self,
        stack: Stack,
        backends: Backends,
        former: "Arena | None" = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.stack = stack
        self.backends = backends
        gateways = [gateway.url for gateway in stack.of_kind("gateway")]
        self.history: History = former.history if former else History()
        self.users: list[Talker] = (
            [user.at(gateways) for user in former.users]
            if former
            else [Talker.new(self.history, gateways, name, patience_seconds) for name in ("ada", "grace")]
        )
        self._readers: list[asyncio.Task[None]] = []
        self._held_at_rest: dict[str, Held] = {}

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for user in self.users:
            await user.close()

    async def talk(self) -> list[Said]:
        """Each user posts three turns, two of which wait for their turn in one conversation; all are being read."""
        return [said for spoken in await asyncio.gather(*map(self._talk, self.users)) for said in spoken]

    async def _talk(self, user: Talker) -> list[Said]:
        begun = await user.add_task()
        self.read(user, begun)
        later = [
            await user.ask(begun.conversation_id),
            await user.add_task(begun.conversation_id),
            await user.ask(tokens=60),
        ]
        for said in later:
            self.read(user, said)
        return [begun, *later]

    def read(self, user: Talker, said: Said) -> asyncio.Task[None]:
        """Follow the stream from its beginning, until the end of the attack."""
        reader = asyncio.create_task(user.follow(said))
        self._readers.append(reader)
        return reader

    async def cancel_what_is_open(self, user: Talker) -> None:
        """Of the user's, whatever no reader has seen the end of."""
        for said in self.history.accepted:
            if said.user_id == user.user_id and not said.finals:
                await user.cancel(said)

    async def talk_until_dead(self, target: ServiceProcess, *, rounds_max: int = 8) -> None:
        """Keep talking until the process has died of its fault."""
        for _ in range(rounds_max):
            talking = asyncio.create_task(self.talk())
            dying = asyncio.create_task(died(target))
            await asyncio.wait((talking, dying), timeout=5, return_when=asyncio.FIRST_COMPLETED)
            dead = dying.done() or not target.is_running
            dying.cancel()
            if dead:
                break
            await talking
        await died(target)

    async def verdict(
        self, effects: Sequence[Effect] | None = None, *, seconds: float = 40.0, attempts_max: int | None = None
    ) -> list[str]:
        """Every violation, once everything has come to rest or should have."""
        snapshot = await self.snapshot(seconds=seconds)
        return check(self.history, snapshot, effects, attempts_max=attempts_max)

    async def attempts(self) -> dict[str, int]:
        """By response, of the messages of this attack."""
        snapshot = await settled(self.backends, seconds=0)
        return {job.response_id: job.attempt for job in snapshot.jobs if job.user_id in self.history.users}

    async def rest(self) -> None:
        """Once nothing is left to do, note what the processes hold: the next verdicts want them to hold no more."""
        await self.snapshot()
        self._held_at_rest = await self._held()

    async def snapshot(self, *, seconds: float = 40.0) -> Snapshot:
        started = time.monotonic()
        if self._readers:
            await asyncio.wait(self._readers, timeout=seconds)
        left = max(1.0, seconds - (time.monotonic() - started))
        snapshot = await settled(self.backends, seconds=left)
        await self._read_again(snapshot)
        if not self._held_at_rest:
            return snapshot
        whole = replace(snapshot, held_at_rest=self._held_at_rest, held=await self._held())
        # What is let go of in the background may still be on its way.
        deadline = time.monotonic() + _LET_GO_SECONDS
        while list(leaks(whole)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            whole = replace(whole, held=await self._held())
        return whole

    async def _held(self) -> dict[str, Held]:
        return await held_by([process for process in self.stack.processes.values() if process.kind != "demo-model"])

    async def _read_again(self, snapshot: Snapshot) -> None:
        """Replays, whole and from the middle, and the lists of each user, at whichever gateway comes next."""
        ended = {job.response_id: len(job.events) for job in snapshot.jobs if job.ended_at}
        users = {user.user_id: user for user in self.users}
        for said in self.history.accepted[-6:]:
            if event_count := ended.get(said.response_id):
                for cursor in (-1, event_count // 2):
                    await users[said.user_id].follow(said, starting_after=cursor, seconds=PATIENCE_SECONDS)
        for user in self.users:
            for path in ("/v1/conversations", f"/api/{user.user_id}/tasks"):
                await user.see(path)


async def died(target: ServiceProcess) -> None:
    async def is_dead() -> bool:
        return not target.is_running

    await wait_until(is_dead, seconds=20, what=f"{target.name} died at its crash point")
