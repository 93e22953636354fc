"""Our own OpenAPI document, against what is really answered: requests made from it by schemathesis."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.clients.harness import BASE_URL, run, scenario

_SETTINGS = Path(__file__).with_name("schemathesis.toml")


@scenario
async def answers_as_the_openapi_document_says() -> None:
    program = Path(sys.executable).with_name("schemathesis")
    document = BASE_URL.removesuffix("/v1") + "/openapi.json"
    with tempfile.TemporaryDirectory() as folder:
        running = await asyncio.create_subprocess_exec(
            *(program, "--no-color", "--config-file", _SETTINGS, "run", document),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await running.communicate()
    assert running.returncode == 0, output.decode()


if __name__ == "__main__":
    run(seconds_max=140)
