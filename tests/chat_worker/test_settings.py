"""The budget of a prompt, as an operator sets it."""

from typing import Any

import pytest
from pydantic import ValidationError

from chat_worker.settings import ChatWorkerSettings


@pytest.mark.parametrize(
    ("variables", "token_count_max"),
    [
        ({}, 24_000),
        ({"MODEL_CONTEXT_TOKENS": 8_000}, 6_000),
        ({"MODEL_CONTEXT_TOKENS": 200_000, "reserved_token_count": 20_000}, 180_000),
    ],
)
def test_a_prompt_has_the_models_context_without_what_is_reserved(
    variables: dict[str, Any], token_count_max: int
) -> None:
    settings = settings_with(**variables)

    assert settings.prompt_limits().token_count_max == token_count_max
    assert settings.history_limits().bytes_max == 2 * settings.prompt_limits().history_bytes_max


def test_a_reserve_that_leaves_nothing_for_the_prompt_is_refused() -> None:
    with pytest.raises(ValidationError, match="CHAT_WORKER_RESERVED_TOKEN_COUNT leaves 100 of MODEL_CONTEXT_TOKENS"):
        settings_with(MODEL_CONTEXT_TOKENS=8_000, reserved_token_count=7_900)


def test_a_summary_never_takes_more_than_an_eighth_of_the_prompt() -> None:
    assert settings_with().summary_limits().token_count_max == 1_000
    assert settings_with(MODEL_CONTEXT_TOKENS=4_000).summary_limits().token_count_max == 375


def settings_with(**variables: Any) -> ChatWorkerSettings:
    required = {"CHAT_WORKER_DATABASE_URL": "postgresql://x", "TOOL_TOKEN_SECRET": "0" * 64}
    return ChatWorkerSettings.model_validate({**required, **variables})
