"""Parse JSON of any depth: tenants can nest fields of watched objects deeper than a parser follows them."""

import re
from typing import Any, TypeVar, overload

import msgspec

TOO_DEEP = "promptintern.dev/too-deep"
"""The text that replaces objects and arrays below ``_DEPTH``."""

_DEPTH = 100
"""The depth to which nested objects and arrays are kept. The fields that the operator reads are less than 20 deep."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
T = TypeVar("T")


@overload
def parse(content: bytes) -> Any: ...


@overload
def parse(content: bytes, kind: type[T]) -> T: ...


def parse(content: bytes, kind: Any = Any) -> Any:
    """Parse JSON as ``kind``; whatever is nested deeper than any field that the operator reads may be left out.

    Raises:
        msgspec.DecodeError: if the content is not JSON.
        msgspec.ValidationError: if the content is not of this kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError:
        return msgspec.json.decode(prune(content), type=kind)


def prune(content: bytes) -> bytes:
    """Replace in a JSON text each object and array that is nested deeper than ``_DEPTH`` by the text ``TOO_DEEP``."""
    kept, depth, begin = bytearray(), 0, 0
    for token in _TOKEN.finditer(content):
        if token[0] in b"[{":
            depth += 1
            if depth == _DEPTH + 1:
                kept += content[begin : token.start()]
        elif token[0] in b"]}":
            if depth == _DEPTH + 1:
                kept += b'"' + TOO_DEEP.encode() + b'"'
                begin = token.end()
            depth -= 1
    if depth <= _DEPTH:
        kept += content[begin:]
    return bytes(kept)
