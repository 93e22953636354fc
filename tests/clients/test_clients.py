"""Programs written for OpenAI's API are clients of ours: only their address and their key differ.

A client's script runs once, all of its scenarios in it; each is a test here.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.clients.programs import Client, Report

_STRICT = {"STRICT": "1"}
CLIENTS = (
    Client("openapi", "openapi/scenarios.py", "openapi"),
    Client("openai-3", "openai/scenarios.py"),
    Client("openai-3-strict", "openai/scenarios.py", variables=_STRICT),
    Client("openai-2", "openai/scenarios.py", "openai/v2"),
    Client("openai-2-strict", "openai/scenarios.py", "openai/v2", _STRICT),
    Client("openai-1", "openai/scenarios.py", "openai/v1"),
    Client("openai-1-strict", "openai/scenarios.py", "openai/v1", _STRICT),
    Client("openai-agents", "openai_agents/scenarios.py", "openai_agents"),
    Client("langchain", "langchain/scenarios.py", "langchain"),
    Client("pydantic-ai", "pydantic_ai/scenarios.py", "pydantic_ai"),
    Client("openai-node", "node/openai.mjs"),
    Client("llm-comply", "llm_comply/scenarios.py", "llm_comply"),
    Client("ai-sdk", "node/ai-sdk.mjs"),
)


@pytest.mark.parametrize(
    ("client", "scenario"),
    [pytest.param(each, name, id=f"{each.name}-{name}") for each in CLIENTS for name in each.scenarios],
)
async def test_a_client(client: Client, scenario: str, report: Callable[[Client], Awaitable[Report]]) -> None:
    said = await report(client)

    if scenario not in said.failures:
        pytest.fail(f"it did not come to its end:\n{said.output}", pytrace=False)
    if said.failures[scenario]:
        pytest.fail(said.failures[scenario], pytrace=False)
