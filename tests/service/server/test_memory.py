"""Memory is returned to the system after a load."""

import subprocess
import sys

import pytest

from service.server.memory import MIN_BYTES, Memory
from tests.serving import ROOT


def test_memory_is_returned_once_the_process_has_grown() -> None:
    """Nothing happens until it has grown by the minimum since its lowest size after the last return."""
    resident, trimmed = [100 << 20], []
    memory = Memory(lambda: resident[0], lambda: trimmed.append(resident[0]))
    memory.release()
    resident[0] += MIN_BYTES - 1
    memory.release()
    assert not trimmed
    resident[0] += 1
    memory.release()
    assert len(trimmed) == 1
    memory.release()
    assert len(trimmed) == 1
    resident[0] -= 50 << 20
    memory.release()
    resident[0] += MIN_BYTES
    memory.release()
    assert len(trimmed) == 2


FREEING = """
from service.server.memory import Memory, _resident_bytes
memory = Memory()
blocks = [bytes([1]) * 60_000 for _ in range(2000)]
for index in range(0, len(blocks), 2):
    blocks[index] = None
before = _resident_bytes()
memory.release()
print(before - _resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_trim and /proc are Linux's")
def test_freed_blocks_between_used_ones_are_returned() -> None:
    """Every other of many blocks is freed: half of their memory is returned, which the C library alone would keep."""
    done = subprocess.run([sys.executable, "-c", FREEING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40 << 20
