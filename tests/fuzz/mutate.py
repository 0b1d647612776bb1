"""Mutations of files: flipped bits, extreme numbers, cuts, and segments swapped, repeated, deleted or foreign."""

import random
import re
from collections.abc import Callable, Sequence

from tests.fuzz.seed_corpus import SIGNATURE, chunk

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_BLOCK = 64

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(data: bytes, generator: random.Random, others: Sequence[bytes]) -> tuple[str, bytes]:
    """Apply one to four mutations; return their names and the result. Half of the PNGs get valid checksums again.

    Args:
        data: the file.
        generator: the same state gives the same result.
        others: files from which foreign segments are taken.
    """
    names: list[str] = []
    for _ in range(generator.choice((1, 1, 2, 4))):
        mutation = generator.choice(MUTATIONS)
        names.append(mutation.__name__.strip("_"))
        data = mutation(data, generator, others)
    if data.startswith(SIGNATURE) and generator.random() < 0.5:
        data = with_valid_checksums(data)
    return "+".join(names), data


def with_valid_checksums(png: bytes) -> bytes:
    """A PNG with valid checksums, so that the decoder also reads the mutated content of its chunks."""
    signature, *chunks = segments(png)
    return signature + b"".join(chunk(part[4:8], part[8:-4]) if len(part) >= 12 else part for part in chunks)


def segments(data: bytes) -> list[bytes]:
    """The segments of a file: a PNG's chunks, a JPEG's or WebP's sections, blocks of 64 bytes of other formats."""
    if data.startswith(SIGNATURE):
        return _png_chunks(data)
    if data.startswith(b"\xff\xd8"):
        return re.split(rb"(?=\xff[\xc0-\xfe])", data)
    if data.startswith(b"RIFF"):
        return [data[:12], *re.split(rb"(?=VP8[ LX]|ANIM|ANMF|ALPH|EXIF|ICCP)", data[12:])]
    return [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]


def _png_chunks(data: bytes) -> list[bytes]:
    """The signature and the chunks of a PNG; the last chunk may be cut off."""
    chunks, start = [data[:8]], 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        chunks.append(data[start:end])
        start = end
    return chunks


def _flip_bits(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    mutated = bytearray(data)
    for _ in range(generator.choice((1, 1, 4, 32)) if data else 0):
        mutated[generator.randrange(len(mutated))] ^= 1 << generator.randrange(8)
    return bytes(mutated)


def _flip_early_bits(data: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    return _flip_bits(data[:128], generator, others) + data[128:]


def _insert_extreme_number(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    size, order = generator.choice((1, 2, 4)), generator.choice(("big", "little"))
    number = (generator.choice(_EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, "big" if order == "big" else "little")
    start = generator.randrange(min(len(data), generator.choice((64, 256, 1 << 20))) + 1)
    return data[:start] + number + data[start + size :]


def _truncate(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _cut_out(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    start, end = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _swap_segments(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    parts = segments(data)
    if len(parts) > 1:
        first, second = generator.sample(range(len(parts)), 2)
        parts[first], parts[second] = parts[second], parts[first]
    return b"".join(parts)


def _repeat_segment(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    parts = segments(data)
    if parts:
        index = generator.randrange(len(parts))
        parts[index:index] = [parts[index]] * generator.choice((1, 2, 20))
    return b"".join(parts)


def _delete_segment(data: bytes, generator: random.Random, _others: Sequence[bytes]) -> bytes:
    parts = segments(data)
    if parts:
        del parts[generator.randrange(len(parts))]
    return b"".join(parts)


def _splice(data: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    other = generator.choice(others)
    return data[: generator.randrange(len(data) + 1)] + other[generator.randrange(len(other) + 1) :]


def _insert_foreign_segment(data: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    parts, foreign = segments(data), segments(generator.choice(others))
    if parts and foreign:
        parts.insert(generator.randrange(len(parts)), generator.choice(foreign))
    return b"".join(parts)


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_early_bits,
    _insert_extreme_number,
    _insert_extreme_number,
    _truncate,
    _cut_out,
    _swap_segments,
    _repeat_segment,
    _delete_segment,
    _splice,
    _insert_foreign_segment,
)
