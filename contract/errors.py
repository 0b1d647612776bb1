"""What can be wrong with a model or an input, and the base of all errors that a client may see.

ConvokeError
├── TooLarge              413  too_large
├── UnsupportedMediaType  415  unsupported_kind
├── Unreadable            422  unreadable
├── NoContent             422  no_content
├── NoDigit               422  no_digit
├── SeveralDigits         422  several_digits
├── NotInspectable        422  not_inspectable
├── ProviderError         500  internal
└── ModelRefused          422  model_refused
    └── ManifestError

`service/errors.py` adds those that only a request can have.
"""

from collections.abc import Mapping
from typing import ClassVar

_NO_HEADERS: Mapping[str, str] = {}


class ConvokeError(Exception):
    """Base of all errors: the class sets the `status` (of HTTP) and the `code`, the raiser sets the message."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    headers: Mapping[str, str] = _NO_HEADERS

    def body(self) -> dict[str, str]:
        """The error as JSON shows it in a response."""
        return {"code": self.code, "message": str(self)}


class TooLarge(ConvokeError):
    """The request has too many bytes, pixels, characters, items or JSON values."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ConvokeError):
    """The model or the service does not read this kind of content."""

    status, code = 415, "unsupported_kind"


class Unreadable(ConvokeError):
    """The content is of the right kind, but damaged."""

    status, code = 422, "unreadable"


class NoContent(ConvokeError):
    """The image shows nothing that a model could classify, such as one colour throughout."""

    status, code = 422, "no_content"


class NoDigit(ConvokeError):
    """The image of a digit shows none."""

    status, code = 422, "no_digit"


class SeveralDigits(ConvokeError):
    """The image of a digit shows more than one."""

    status, code = 422, "several_digits"


class NotInspectable(ConvokeError):
    """The layers of this model cannot be shown: they have too many values, or the graph does not allow it."""

    status, code = 422, "not_inspectable"


class ProviderError(ConvokeError):
    """The configured execution provider is not available on this machine."""


class ModelRefused(ConvokeError):
    """The version is damaged, or does not match its manifest, and must not be run."""

    status, code = 422, "model_refused"


class ManifestError(ModelRefused):
    """The manifest is missing, damaged, or of a schema that this release does not read."""
