"""`./dev fuzz`: a fuzzer at the decoders of what foreign servers say, one after another."""

import os
from pathlib import Path

from deploy.local import process, setup, toolchain
from deploy.local.places import Places
from deploy.local.terminal import Failure, say

_SECONDS_PER_INPUT_MAX = 10
_MEGABYTES_MAX = 2_048
_LENGTH_MAX = 8_000


def run(places: Places, minutes: int) -> int:
    """Give each decoder so many minutes. Raises Failure for the first in which something was found, saying where."""
    setup.python_packages(places)
    environment = places.tools / "fuzz"
    environment.parent.mkdir(parents=True, exist_ok=True)
    toolchain.sync_apart(places, places.root / "tests" / "attacks" / "atheris", environment)
    [packages] = environment.glob("lib/python3*/site-packages")
    for corpus in sorted((places.root / "tests" / "attacks" / "corpus").iterdir()):
        _attack(places, packages, corpus.name, minutes)
    return 0


def _attack(places: Places, packages: Path, target: str, minutes: int) -> None:
    found = places.local / "fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    say("fuzz", f"{target}, for {minutes} minutes")
    options = [f"-max_total_time={minutes * 60}", f"-timeout={_SECONDS_PER_INPUT_MAX}", f"-max_len={_LENGTH_MAX}"]
    options += [f"-rss_limit_mb={_MEGABYTES_MAX}", f"-artifact_prefix={found}/found-"]
    command: list[str | Path] = [places.python, "-m", "tests.attacks.fuzz", target, *options, found]
    variables = os.environ | {"PYTHONPATH": str(packages)}
    if process.run_in_front(command, environment=variables, directory=places.root):
        raise Failure(f"{target} broke: the bytes are in {found}; put them into tests/attacks/corpus/{target}")
