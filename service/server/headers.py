"""The parser of HTTP headers, and what makes a header an error although the parser takes it."""

import httptools

_SINGLE_HEADERS = frozenset({
    b"authorization", b"content-type", b"inference-header-content-length", b"x-api-key",
})  # fmt: skip
"""The headers of which two different values are an error, because this service uses one value of each."""


def new_parser(protocol: object) -> httptools.HttpRequestParser:
    """A parser with the leniency that uvicorn gives its own."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def header_fault(headers: list[tuple[bytes, bytes]], *, is_old: bool) -> str | None:
    """What is wrong with the headers of a request (RFC 9112, sections 3.2 and 6.1); `is_old` for HTTP/1.0."""
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts != 1 and (hosts or not is_old):
        return "more than one header Host" if hosts else "missing header Host"
    if b"transfer-encoding" in names:
        codings = b", ".join(value for name, value in headers if name == b"transfer-encoding")
        if is_old or codings.lower() != b"chunked":
            return (
                f"unsupported Transfer-Encoding {codings.decode('latin-1')!r}; only chunked is supported, in HTTP/1.1"
            )
    distinct = set(names)
    if len(distinct) < len(names):
        for single in _SINGLE_HEADERS & distinct:
            if len({value for name, value in headers if name == single}) > 1:
                return f"more than one header {single.decode()}, with different values"
    return None
