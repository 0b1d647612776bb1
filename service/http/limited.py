"""JSON within limits, which are found before a value is made: a byte of `[` becomes 56 of a list.

The values are counted by the marks between them, outside of strings. Most bodies have so few of all marks that three
counts at the speed of memory say enough.
"""

import json
import re
from typing import Any

import numpy as np

from contract.errors import TooLarge, Unreadable
from service.errors import InvalidRequest
from service.settings import Settings

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_OPENING, _MARKS = b"[{", b"[{]}"
_OTHERS = bytes(set(range(256)) - set(_MARKS))


def loads(data: bytes, settings: Settings, *, form: str = "") -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Args:
        data: the text.
        settings: the limits.
        form: what was expected instead, for the messages.

    Raises:
        TooLarge: more values than the limit.
        InvalidRequest: no JSON, or nested deeper than the limit.
        Unreadable: not in UTF-8.
    """
    hint = f"; expected {form}" if form else ""
    _bound(data, settings, hint)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"the body is no JSON in UTF-8, as its Content-Type says{hint}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}{hint}") from error


def _bound(data: bytes, settings: Settings, hint: str) -> None:
    most, deepest = settings.max_json_values, settings.max_json_depth
    openings = data.count(b"[") + data.count(b"{")
    if openings <= deepest and openings + data.count(b",") < most:
        return
    marks = _STRING.sub(b"", data)
    openings = marks.count(b"[") + marks.count(b"{")
    if openings + marks.count(b",") >= most:
        raise TooLarge(f"the JSON holds more than {most} values; at most that many are read")
    if openings > deepest and _depth(marks) > deepest:
        raise InvalidRequest(f"the JSON is nested too deep; at most {deepest} levels of lists and objects{hint}")


def _depth(marks: bytes) -> int:
    """How deep lists and objects lie inside of each other, in a text without strings."""
    brackets = np.frombuffer(marks.translate(None, _OTHERS), np.uint8)
    is_opening = np.isin(brackets, np.frombuffer(_OPENING, np.uint8))
    return int(np.where(is_opening, 1, -1).cumsum().max(initial=0))
