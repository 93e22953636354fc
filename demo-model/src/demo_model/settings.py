"""The settings of the demo model, from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8091
    delay_ms: int = 15  # per word: pleasant to read
    directives: bool = False  # honour `[[demo: …]]` in messages and serve /demo/requests: for tests and the local stack

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read DEMO_MODEL_HOST, _PORT, _DELAY_MS and _DIRECTIVES. Raises `ValueError` for what is no number."""
        default = cls()
        return cls(
            host=environment.get("DEMO_MODEL_HOST") or default.host,
            port=_number(environment, "DEMO_MODEL_PORT", default.port, at_most=65_535),
            delay_ms=_number(environment, "DEMO_MODEL_DELAY_MS", default.delay_ms, at_most=60_000),
            directives=environment.get("DEMO_MODEL_DIRECTIVES", "").strip().lower() in {"1", "true", "yes", "on"},
        )


def _number(environment: Mapping[str, str], name: str, default: int, *, at_most: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) <= at_most):
        raise ValueError(f"{name} must be a number from 0 to {at_most}, not {text!r}")
    return int(text)
