"""The checks for Open Responses of llm-comply, which brings the specification along."""

import asyncio
import json
import sys
from pathlib import Path

from tests.clients.harness import BASE_URL, TOKEN, run, same, scenario

_CHECKS = 13
_SKIPPED = ["reasoning-summary"]  # it asks only models with certain names


@scenario
async def passes_the_checks_for_open_responses() -> None:
    """With the agent that has no tools of ours: the specification knows no calls that a server runs."""
    program = Path(sys.executable).with_name("llm-comply")
    options = ["--base-url", BASE_URL, "--api-key", TOKEN, "--model", "chat", "--json"]
    running = await asyncio.create_subprocess_exec(program, *options, stdout=asyncio.subprocess.PIPE)
    output, _ = await running.communicate()

    results = json.loads(output)["results"]
    same([result for result in results if result["status"] not in {"passed", "skipped"}], [])
    same([result["id"] for result in results if result["status"] == "skipped"], _SKIPPED)
    same(len(results), _CHECKS)


if __name__ == "__main__":
    run()
