"""Lets a fuzzer choose what the decoders read: `./dev fuzz --minutes N`, or `python -m tests.attacks.fuzz TARGET …`.

All arguments behind the target's name are libFuzzer's. It starts from `corpus/TARGET` and ends with an exit code other
than 0 where it found bytes that break a promise; it has then written them to a file, which belongs into that folder.
"""

import logging
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # from an environment of its own: see `atheris/pyproject.toml`
import structlog

with atheris.instrument_imports(include=["chat_worker", "shared", "mcp", "httpx2", "json"]):
    from tests.attacks.decoders import TARGETS

CORPUS = Path(__file__).with_name("corpus")


def main() -> None:
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    program, target, *options = sys.argv
    atheris.Setup([program, *options, str(CORPUS / target)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
