"""What can be wrong with a model or an input, and the base of all errors that a client may see.

ConvokeError
├── TooLarge              413  too_large         too many bytes, pixels, characters, items or JSON values
├── UnsupportedMediaType  415  unsupported_kind  a kind of content that the model or the service does not read
├── Unreadable            422  unreadable        the right kind of content, but damaged
├── ProviderError         500  internal          the configured execution provider is not available
└── ModelRefused          422  model_refused     a version that must not be run: damaged, foreign or of another schema
    └── ManifestError                            its manifest cannot be read

`service/errors.py` adds those that only a request can have.
"""

from collections.abc import Mapping
from typing import ClassVar

_NO_HEADERS: Mapping[str, str] = {}


class ConvokeError(Exception):
    """Base of all errors: the class fixes `status` (of HTTP) and `code`, the case the message."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    headers: Mapping[str, str] = _NO_HEADERS

    def body(self) -> dict[str, str]:
        """The error as JSON shows it in a response."""
        return {"code": self.code, "message": str(self)}


class TooLarge(ConvokeError):
    """Too many bytes, pixels, characters, items or JSON values."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ConvokeError):
    """A kind of content that the model or the service does not read."""

    status, code = 415, "unsupported_kind"


class Unreadable(ConvokeError):
    """The right kind of content, but damaged."""

    status, code = 422, "unreadable"


class ProviderError(ConvokeError):
    """The configured execution provider is not available on this machine."""


class ModelRefused(ConvokeError):
    """A model version that must not be run."""

    status, code = 422, "model_refused"


class ManifestError(ModelRefused):
    """A manifest that is missing, damaged, or of a schema that this release does not read."""
