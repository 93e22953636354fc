"""A request to the model's endpoint, counted and traced: how long it takes, what it costs, how it ends."""

import asyncio
import time
from types import TracebackType
from typing import Self

from shared import tracing
from shared.errors import ParleyError
from shared.metrics import SLOW_SECONDS, Counter, Histogram

_CALLS = Counter("parley_model_calls", "Requests to the model's endpoint that ended.", ["use", "outcome"])
_SECONDS = Histogram(
    "parley_model_call_seconds", "From the request to the end of the answer.", ["use"], bounds=SLOW_SECONDS
)
_FIRST_TOKEN_SECONDS = Histogram(
    "parley_model_first_token_seconds", "From the request to the first text or reasoning.", ["use"], bounds=SLOW_SECONDS
)
_TOKENS = Counter("parley_model_tokens", "Tokens, as the endpoint reports them.", ["use", "kind"])


def tell_calls_for(*uses: str) -> None:
    """Tell how many went wrong for want of a setting, none as yet: an alert looks at what rises."""
    for use in uses:
        _CALLS.labels(use, "model_misconfigured")


class ModelCall:
    """One request, which begins now; `use` says what its answer is for.

    A context manager: what the body raises is how it went.
    """

    def __init__(self, use: str, model: str) -> None:
        self.is_silent = True  # nothing of an answer came yet
        self._use = use
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",  # by its protocol, whoever speaks it
            "gen_ai.request.model": model,
            "parley.use": use,
        }
        self._span = tracing.start(f"chat {model}", tracing.Kind.CLIENT, attributes)
        self._began_at = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def break_silence(self) -> None:
        """The answer begins."""
        self.is_silent = False
        seconds = time.perf_counter() - self._began_at
        _FIRST_TOKEN_SECONDS.labels(self._use).observe(seconds)
        self._span.set("gen_ai.response.time_to_first_chunk", seconds)

    def used(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, reasoning_tokens: int = 0) -> None:
        """What the endpoint says it cost. The latter two are parts of the others."""
        for kind, count in (
            ("input", input_tokens),
            ("output", output_tokens),
            ("cached", cached_tokens),
            ("reasoning", reasoning_tokens),
        ):
            _TOKENS.labels(self._use, kind).inc(count)
        self._span.set("gen_ai.usage.input_tokens", input_tokens)
        self._span.set("gen_ai.usage.output_tokens", output_tokens)

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """It is over, as well as `error` says."""
        outcome = _outcome_of(error)
        _CALLS.labels(self._use, outcome).inc()
        _SECONDS.labels(self._use).observe(time.perf_counter() - self._began_at)
        if error is not None:
            self._span.fail(outcome)
        self._span.end()


def _outcome_of(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case ParleyError():
            return error.code
        case asyncio.CancelledError() | GeneratorExit():
            return "interrupted"
        case _:
            return "internal_error"
