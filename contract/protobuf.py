"""Reads protobuf messages in place, field by field, without building objects or copying bytes.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Collection, Iterator, Mapping

Value = int | memoryview

MAX_FIELDS = 1 << 20
"""Of a message; reading them takes a second."""


class Malformed(ValueError):
    """Bytes that are not a message."""


def fields(message: memoryview, names: Mapping[int, str], once: Collection[str] = ()) -> Iterator[tuple[str, Value]]:
    """The fields of a message, of those numbers that have a name: the name, and a number or bytes.

    Parsers merge or overwrite repeated fields; the fields in `once` must not be repeated, since no single value would
    show the result.

    Raises:
        Malformed: the bytes are not a message.
        ValueError: a field in `once` is repeated.
    """
    seen: set[str] = set()
    place = count = 0
    while place < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise Malformed(f"a message has more than {MAX_FIELDS} fields")
        tag, place = _varint(message, place)
        value: Value | None = None
        match tag & 7:
            case 0:
                value, place = _varint(message, place)
            case 1:
                place += 8  # a fixed number of 64 bits
            case 2:
                length, place = _varint(message, place)
                value = message[place : place + length]
                place += length
            case 5:
                place += 4  # a fixed number of 32 bits
            case wire_type:
                raise Malformed(f"unknown wire type {wire_type}")
        if place > len(message):
            raise Malformed("a field is longer than its message")
        name = names.get(tag >> 3)
        if name is None or value is None:
            continue
        if name in seen and name in once:
            raise ValueError(f"repeats the field {name!r}")
        seen.add(name)
        yield name, value


def numbers(value: Value, limit: int) -> list[int]:
    """The first `limit` numbers of a value of a repeated field, which is a single number or packed numbers."""
    if isinstance(value, int):
        return [value]
    unpacked: list[int] = []
    place = 0
    while place < len(value) and len(unpacked) < limit:
        number, place = _varint(value, place)
        unpacked.append(number)
    return unpacked


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the position after it."""
    value = 0
    for shift, byte in enumerate(content[place : place + 10]):  # ten bytes hold 64 bits
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:  # noqa: PLR2004 -- the highest bit says that more follow
            return value, place + shift + 1
    raise Malformed("a number is cut off, or has more than 64 bits")
