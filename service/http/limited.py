"""JSON within limits on the number of values and on nesting, which are checked before a value is made.

A byte `[` becomes a list of 56 bytes, so a body of 32 MB could take gigabytes. `json`, orjson, msgspec and pydantic
make all values before they could be counted, and ijson takes 1.7 times as long as `json` for its events alone. Here the
marks between values are counted, outside of strings; for most bodies three counts at the speed of memory are enough.
"""

import json
import re
from typing import Any

import numpy as np

from contract.errors import TooLarge, Unreadable
from service.errors import InvalidRequest
from service.settings import Settings

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # 1 and -1 as int8


def loads(data: bytes, settings: Settings, *, form: str = "") -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Args:
        data: the text.
        settings: the limits.
        form: the expected form, for messages.

    Raises:
        TooLarge: more values than `max_json_values`.
        InvalidRequest: not JSON, or nested deeper than `max_json_depth`.
        Unreadable: not UTF-8.
    """
    hint = f"; expected {form}" if form else ""
    _check_limits(data, settings, hint)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"the JSON is not UTF-8: {error}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}{hint}") from error


def _check_limits(data: bytes, settings: Settings, hint: str) -> None:
    max_values, max_depth = settings.max_json_values, settings.max_json_depth
    openings = data.count(b"[") + data.count(b"{")
    if openings <= max_depth and openings + data.count(b",") < max_values:
        return
    marks = _STRING.sub(b"", data)
    openings = marks.count(b"[") + marks.count(b"{")
    if openings + marks.count(b",") >= max_values:
        raise TooLarge(f"too many values in the JSON (maximum {max_values})")
    if openings > max_depth and _depth(marks) > max_depth:
        raise InvalidRequest(f"the JSON is nested too deep (maximum {max_depth} lists and objects){hint}")


def _depth(marks: bytes) -> int:
    """The nesting of lists and objects in a JSON text without strings."""
    steps = np.frombuffer(marks.translate(_STEPS, _NO_BRACKETS), np.int8)
    return int(steps.cumsum(dtype=np.int32).max(initial=0))
