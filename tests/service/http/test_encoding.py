"""Content-Encoding: every form of gzip and deflate that clients send, within limits."""

import gzip
import time
import zlib
from collections.abc import Callable

import pytest

from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from service.http.encoding import codings_of, decompress
from tests.drawing import draw, encode
from tests.serving import Call, client, code

FILE = encode(draw(4))
LIMIT = 1 << 20


def raw_deflate(content: bytes) -> bytes:
    """Deflate without the two bytes of zlib in front."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def members(content: bytes) -> bytes:
    """A gzip file of three members, one of them empty."""
    return gzip.compress(content[:100]) + gzip.compress(b"") + gzip.compress(content[100:])


READ: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "gzip": (gzip.compress, ["gzip"]),
    "gzip in capitals": (gzip.compress, [" GZIP "]),
    "x-gzip": (gzip.compress, ["x-gzip"]),
    "zlib": (zlib.compress, ["deflate"]),
    "zlib, fastest": (lambda content: zlib.compress(content, 1), ["deflate"]),
    "raw deflate": (raw_deflate, ["deflate"]),
    "raw deflate, stored": (lambda content: zlib.compress(content, 0)[2:-4], ["deflate"]),
    "gzip of several members": (members, ["gzip"]),
    "gzip with zeros behind": (lambda content: gzip.compress(content) + bytes(512), ["gzip"]),
    "members with zeros behind": (lambda content: members(content) + bytes(3), ["gzip"]),
    "gzip and identity on two lines": (gzip.compress, ["gzip", "identity"]),
    "identity and gzip on one line": (gzip.compress, ["identity, gzip"]),
    "empty": (bytes, [""]),
    "identity": (bytes, ["Identity"]),
    "a comma alone": (bytes, [" , "]),
    "gzip with a comma behind": (gzip.compress, ["gzip,"]),
    "gzip twice": (lambda content: gzip.compress(gzip.compress(content)), ["gzip, gzip"]),
    "deflate, then gzip, on two lines": (lambda content: gzip.compress(zlib.compress(content)), ["deflate", "gzip"]),
}
REFUSED = {
    "br": (FILE, "br", UnsupportedMediaType),
    "zstd": (FILE, "zstd", UnsupportedMediaType),
    "gzip, then br": (gzip.compress(FILE), "gzip, br", UnsupportedMediaType),
    "a charset": (FILE, "utf-8", UnsupportedMediaType),
    "four codings": (FILE, "gzip, gzip, gzip, gzip", UnsupportedMediaType),
    "not gzip": (FILE, "gzip", Unreadable),
    "not deflate": (FILE, "deflate", Unreadable),
    "gzip as deflate": (gzip.compress(FILE), "deflate", Unreadable),
    "cut off": (gzip.compress(FILE)[:-4], "gzip", Unreadable),
    "raw deflate cut off": (raw_deflate(FILE)[:-9], "deflate", Unreadable),
    "bytes behind gzip": (gzip.compress(FILE) + b"more", "gzip", Unreadable),
    "bytes behind zeros": (gzip.compress(FILE) + bytes(9) + b"more", "gzip", Unreadable),
    "bytes behind deflate": (zlib.compress(FILE) + b"more", "deflate", Unreadable),
    "a member cut off": (members(FILE)[:-4], "gzip", Unreadable),
    "a wrong checksum": (gzip.compress(FILE)[:-8] + bytes(8), "gzip", Unreadable),
    "a large content": (gzip.compress(bytes(LIMIT + 1)), "gzip", TooLarge),
    "a large second member": (gzip.compress(bytes(9)) + gzip.compress(bytes(LIMIT)), "gzip", TooLarge),
    "a bomb in a bomb": (gzip.compress(gzip.compress(bytes(LIMIT * 50))), "gzip, gzip", TooLarge),
}


def lines(values: list[str]) -> list[tuple[bytes, bytes]]:
    return [(b"content-encoding", value.encode()) for value in values]


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


@pytest.mark.parametrize("name", READ)
def test_every_form_is_read(call: Call, name: str) -> None:
    """The body is the same image, whatever its coding."""
    pack, values = READ[name]
    response = call("POST", "/classify/digits", content=pack(FILE), headers=lines(values))
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["label"] == "4"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(name: str) -> None:
    """Another coding, a damaged body and a body beyond the limit are refused."""
    body, value, expected = REFUSED[name]
    with pytest.raises(expected) as caught:
        decompress(body, codings_of(lines([value])), LIMIT)
    assert any(word in str(caught.value) for word in ("gzip", "deflate", "decompression"))


def test_an_unknown_coding_names_the_known_ones(call: Call) -> None:
    """A 415 has the header Accept-Encoding (RFC 9110, 12.5.3)."""
    response = call("POST", "/classify/digits", content=FILE, headers={"Content-Encoding": "br"})
    assert code(response) == (415, "unsupported_kind")
    assert response.headers["Accept-Encoding"] == "gzip, deflate, identity"


def test_very_many_members_take_little_time() -> None:
    """A body of a million members is refused before it takes seconds."""
    body = gzip.compress(b"") * 500_000
    started = time.process_time()
    with pytest.raises(ConvokeError):
        decompress(body, ["gzip"], LIMIT)
    assert time.process_time() - started < 2
