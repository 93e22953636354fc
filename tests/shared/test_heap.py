"""What is there when a service begins is looked through no more; what it drops later is found all the same."""

import subprocess
import sys

_BEGINS = """
import gc, weakref
from shared.heap import settle_heap

class Node:
    pass

old = [Node() for _ in range(1_000)]
settle_heap()
assert gc.get_freeze_count() > 1_000
assert not any(isinstance(each, Node) for each in gc.get_objects()), "the collector still looks at what was there"

def dropped():
    one, other = Node(), Node()
    one.other, other.one = other, one
    return weakref.ref(one)

gone = dropped()
held = []
while gone() is not None and len(held) < 100_000:
    held.append([])
print(len(held))
"""


def test_a_collection_looks_at_what_came_later_alone_and_comes_less_often() -> None:
    run = subprocess.run([sys.executable, "-c", _BEGINS], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert 1_000 < int(run.stdout) < 20_000
