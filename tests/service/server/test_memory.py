"""Memory that is given back once a load is over."""

import subprocess
import sys

import pytest

from service.server.memory import WORTH_BYTES, Memory
from tests.serving import ROOT


def test_it_is_given_back_where_it_is_worth_it() -> None:
    """Nothing happens until enough came since the last time; what is least held then counts anew."""
    held, trimmed = [100 << 20], []
    memory = Memory(lambda: held[0], lambda: trimmed.append(held[0]))
    memory.give_back()
    held[0] += WORTH_BYTES - 1
    memory.give_back()
    assert not trimmed
    held[0] += 1
    memory.give_back()
    assert len(trimmed) == 1
    memory.give_back()
    assert len(trimmed) == 1
    held[0] -= 50 << 20
    memory.give_back()
    held[0] += WORTH_BYTES
    memory.give_back()
    assert len(trimmed) == 2


FREEING = """
from service.server.memory import Memory, _resident
memory = Memory()
blocks = [bytes([1]) * 60_000 for _ in range(2000)]
for index in range(0, len(blocks), 2):
    blocks[index] = None
before = _resident()
memory.give_back()
print(before - _resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_trim and /proc are Linux's")
def test_what_was_freed_between_what_is_in_use_goes_back() -> None:
    """Every other of many blocks is freed: half of their memory, which the C library keeps by itself."""
    done = subprocess.run([sys.executable, "-c", FREEING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40 << 20
