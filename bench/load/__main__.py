"""`python -m bench.load`: load against a system that runs already; prints what it came to, as JSON.

    python -m bench.load --url http://127.0.0.1:8080 --dialect parley --clients 32 --seconds 10
    python -m bench.load --url … --dialect parley --rate 100 --seconds 20 --tokens 300 --pace 30 --resume 0.1

With `--clients` the loop is closed: each client posts its next turn when the last one has ended. With `--rate` it is
open: turns begin when they are due, and what they wait for that counts. Parley's users are signed with JWT_SECRET.
"""

import argparse
import os
import sys

import msgspec
import uvloop

from bench.load.dialects import dialect_of
from bench.load.turns import Load, Mix
from bench.words import Wanted
from shared.tokens import mint_token


def main() -> int:
    """Exit code 1 if a turn failed or a word was wrong."""
    asked = _parser().parse_args()
    summary = uvloop.run(_run(asked))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    return int(bool(summary["failed"] or summary["wrong_answers"]))


async def _run(asked: argparse.Namespace) -> dict[str, object]:
    load = Load(
        asked.url,
        dialect_of(asked.dialect),
        Wanted("", asked.tokens, asked.pace, asked.burst, asked.first_ms, asked.tool),
        token_of=_token_of if "JWT_SECRET" in os.environ else lambda _user_id: "",
        turns_per_conversation=asked.turns_per_conversation,
        mix=Mix(asked.resume, asked.poll, asked.cancel),
        seed=asked.seed,
    )
    if asked.rate:
        log = await load.open_loop(asked.rate, asked.seconds, warm_up_seconds=asked.warm_up)
    else:
        log = await load.closed(asked.clients, asked.seconds, warm_up_seconds=asked.warm_up)
    return log.summary()


def _token_of(user_id: str) -> str:
    return mint_token(os.environ["JWT_SECRET"], user_id, issuer="parley", audience="parley", lifetime_seconds=3600)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True, help="the system's base address")
    parser.add_argument(
        "--dialect", default="parley", help="parley, parley-todo, floor, direct, plain, celery, langgraph"
    )
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument("--clients", type=int, default=1, help="closed loop: so many clients")
    loop.add_argument("--rate", type=float, default=0.0, help="open loop: so many turns a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long turns are begun")
    parser.add_argument("--warm-up", type=float, default=0.0, help="seconds before that")
    parser.add_argument("--tokens", type=int, default=22, help="words of an answer")
    parser.add_argument("--pace", type=float, default=0.0, help="words a second; 0: at once")
    parser.add_argument("--burst", type=int, default=1, help="words of a delta")
    parser.add_argument("--first-ms", type=float, default=0.0, help="before the model's first word")
    parser.add_argument("--tool", default="", help="have the model call the tool whose name ends so, first")
    parser.add_argument("--turns-per-conversation", type=int, default=10, help="then a new one is opened")
    parser.add_argument("--resume", type=float, default=0.0, help="share of streams that are left and resumed")
    parser.add_argument("--poll", type=float, default=0.0, help="share of turns that are polled")
    parser.add_argument("--cancel", type=float, default=0.0, help="share of turns that are cancelled")
    parser.add_argument("--seed", type=int, default=1, help="names users and words, and orders the shares")
    return parser


if __name__ == "__main__":
    sys.exit(main())
