"""Ways to spoil a file: flipped bits, wild numbers, cuts, pieces swapped, doubled, dropped or foreign."""

import random
import re
from collections.abc import Callable, Iterator, Sequence

from tests.fuzz.seeds import SIGNATURE, chunk

_WILD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_BLOCK = 64

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def truncations(data: bytes, step: int = 64) -> Iterator[bytes]:
    """The file cut off at every `step`-th byte, from nothing on."""
    return (data[:length] for length in range(0, len(data), step))


def mutated(data: bytes, draw: random.Random, others: Sequence[bytes]) -> tuple[str, bytes]:
    """How a file is spoilt, in one to four ways, and what is left; half of the PNGs get right checksums again.

    Args:
        data: the file.
        draw: where chance comes from: the same state gives the same bytes.
        others: files that pieces are taken from.
    """
    names: list[str] = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        mutation = draw.choice(MUTATIONS)
        names.append(mutation.__name__.strip("_"))
        data = mutation(data, draw, others)
    if data.startswith(SIGNATURE) and draw.random() < 0.5:
        data = mended(data)
    return "+".join(names), data


def mended(png: bytes) -> bytes:
    """A PNG with right checksums, so that its decoder looks at what stands before them."""
    pieces = _png_pieces(png)
    return pieces[0] + b"".join(chunk(one[4:8], one[8:-4]) if len(one) >= 12 else one for one in pieces[1:])


def pieces(data: bytes) -> list[bytes]:
    """A file in the pieces that its format is made of, as far as they can be told; else blocks of 64 bytes."""
    if data.startswith(SIGNATURE):
        return _png_pieces(data)
    if data.startswith(b"\xff\xd8"):
        return re.split(rb"(?=\xff[\xc0-\xfe])", data)
    if data.startswith(b"RIFF"):
        return [data[:12], *re.split(rb"(?=VP8[ LX]|ANIM|ANMF|ALPH|EXIF|ICCP)", data[12:])]
    return [data[place : place + _BLOCK] for place in range(0, len(data), _BLOCK)]


def _png_pieces(data: bytes) -> list[bytes]:
    """The signature and the chunks of a PNG, the last as long as it is."""
    found, place = [data[:8]], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        found.append(data[place:end])
        place = end
    return found


def _flip_bits(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 32)) if data else 0):
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def _flip_early_bits(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    return _flip_bits(data[:128], draw, others) + data[128:]


def _wild_number(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    size, order = draw.choice((1, 2, 4)), draw.choice(("big", "little"))
    number = (draw.choice(_WILD) & ((1 << 8 * size) - 1)).to_bytes(size, "big" if order == "big" else "little")
    place = draw.randrange(min(len(data), draw.choice((64, 256, 1 << 20))) + 1)
    return data[:place] + number + data[place + size :]


def _cut_off(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _cut_out(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _swap_pieces(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    found = pieces(data)
    if len(found) > 1:
        one, other = draw.sample(range(len(found)), 2)
        found[one], found[other] = found[other], found[one]
    return b"".join(found)


def _double_piece(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    found = pieces(data)
    if found:
        place = draw.randrange(len(found))
        found[place:place] = [found[place]] * draw.choice((1, 2, 20))
    return b"".join(found)


def _drop_piece(data: bytes, draw: random.Random, _others: Sequence[bytes]) -> bytes:
    found = pieces(data)
    if found:
        del found[draw.randrange(len(found))]
    return b"".join(found)


def _splice(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _foreign_piece(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    found, foreign = pieces(data), pieces(draw.choice(others))
    if found and foreign:
        found.insert(draw.randrange(len(found)), draw.choice(foreign))
    return b"".join(found)


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_early_bits,
    _wild_number,
    _wild_number,
    _cut_off,
    _cut_out,
    _swap_pieces,
    _double_piece,
    _drop_piece,
    _splice,
    _foreign_piece,
)
