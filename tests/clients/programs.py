"""Runs the clients' scripts, each once, and keeps what they said of their scenarios."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.places import ROOT
from shared.ids import uuid7
from tests.clients.environments import FOLDER, node, python_of
from tests.support.stack import token_of

_SECONDS_MAX = 150.0  # of one script
_PYTHON_SCENARIO = re.compile(r"^@scenario\nasync def (\w+)", re.MULTILINE)
_NODE_SCENARIO = re.compile(r'^scenario\("([^"]+)"', re.MULTILINE)
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Client:
    """One client in one version: the script that uses it, and the environment that holds it (None: our own)."""

    name: str
    script: str
    environment: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_for_node(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def scenarios(self) -> list[str]:
        """Read off the script, so that one which never tells of its end is missed."""
        pattern = _NODE_SCENARIO if self.is_for_node else _PYTHON_SCENARIO
        return pattern.findall((FOLDER / self.script).read_text())

    def command(self) -> list[str | Path]:
        """Installs what it takes; may take minutes, once."""
        if self.is_for_node:
            found = node()
            return [found.program, found.folder / Path(self.script).name]
        python = Path(sys.executable) if self.environment is None else python_of(self.environment)
        return [python, FOLDER / self.script]


@dataclass(frozen=True)
class Report:
    """What a script said: by scenario, what went wrong ("" where nothing did); and all of its output."""

    failures: Mapping[str, str]
    output: str


async def report_of(client: Client, base_url: str) -> Report:
    """Run the client's script to its end, for users of its own."""
    command = await asyncio.to_thread(client.command)
    output = await _output_of(command, {**_environment_of(base_url, client.name), **client.variables})
    told = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    return Report({each["name"]: "" if each["ok"] else each["detail"] or "failed" for each in told}, output)


def _environment_of(base_url: str, name: str) -> dict[str, str]:
    """What a client's program needs to know, and nothing of our own settings."""
    user = f"{name}-{uuid7().hex[-12:]}"
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "BASE_URL": f"{base_url}/v1",
        "USER_ID": user,
        "TOKEN": token_of(user),
        "OTHER_TOKEN": token_of(f"other-{user}"),
    }


async def _output_of(command: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """What a program says on stdout and stderr until it ends; one that takes too long is killed."""
    program = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=FOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert program.stdout is not None
    reading = asyncio.create_task(program.stdout.read())
    try:
        await asyncio.wait({reading}, timeout=_SECONDS_MAX)
    finally:
        if not reading.done():
            os.killpg(program.pid, signal.SIGKILL)
    said = (await reading).decode(errors="replace")
    await program.wait()
    return said
