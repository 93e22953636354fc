"""The examples of a page: read from its fenced blocks, run in their order, and compared with what the page shows.

A `text` block shows what the examples right above it print, each of them: those that nothing but blank lines part from
it, and from one another, back to the last `text` block. `…` in it stands for anything.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<kind>[a-z]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_PASSED_ON = ("HOME", "LANG", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Example:
    """One block of code, the line it is on, and what the page shows of its output (None: nothing)."""

    language: str
    code: str
    line: int
    shown: str | None = None


class ProgramFailedError(Exception):
    """A program ended with an error, or not in time; its text is all that it said."""


def examples_of(text: str, languages: Sequence[str]) -> list[Example]:
    """The examples in a Markdown text, in its order."""
    examples: list[Example] = []
    open_from = end = 0  # `examples[open_from:]` are those that a `text` block here would be about
    for block in _BLOCK.finditer(text):
        if text[end : block.start()].strip():
            open_from = len(examples)
        if block["kind"] in languages:
            line = text.count("\n", 0, block.start()) + 1
            examples.append(Example(block["kind"], block["body"], line))
        elif block["kind"] == "text":
            assert examples[open_from:], f"no example has this output:\n{block['body']}"
            examples[open_from:] = [replace(one, shown=block["body"]) for one in examples[open_from:]]
            open_from = len(examples)
        end = block.end()
    return examples


def kinds_of_blocks(text: str) -> Iterator[str]:
    """What the fenced blocks of a Markdown text say that they are."""
    return (block["kind"] for block in _BLOCK.finditer(text))


def is_shown(shown: str, printed: str) -> bool:
    """Whether `printed` is what a page shows, but for white space around it."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


async def output_of(
    command: Sequence[str | Path], folder: Path, variables: Mapping[str, str], *, seconds_max: float
) -> str:
    """What a program says until it ends, with little more than `variables` in its environment.

    Raises ProgramFailedError unless it ends well, and in time.
    """
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**kept, "PATH": path, "PYTHONUTF8": "1", **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said = asyncio.create_task(process.communicate())
    try:
        await asyncio.wait({said}, timeout=seconds_max)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    output = (await said)[0].decode(errors="replace")
    if process.returncode:
        raise ProgramFailedError(output)
    return output
