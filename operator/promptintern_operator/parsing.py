"""Parse what the API server sends: tenants may nest it deeper, or make it larger, than the operator can hold."""

import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar, overload

import msgspec

TOO_DEEP = "promptintern.dev/too-deep"
"""The text that replaces objects and arrays below ``_DEPTH``."""
PAGE = 50
"""The number of objects on a page of a listing."""
PAGE_BYTES = 8 * 2**20
"""The largest size of a page. A page above it is requested again with fewer objects; a single object may be larger."""

_DEPTH = 100
"""The depth to which a deep text is kept. The fields that the operator reads are less than 20 deep."""
_PRUNED_BYTES = 64 * 2**10
"""The largest text that is pruned, because pruning takes 0.2 s per MiB."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
T = TypeVar("T")


class Owner(msgspec.Struct, rename="camel", omit_defaults=True):
    """An owner reference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(msgspec.Struct, rename="camel", omit_defaults=True):
    """The metadata that the operator reads. A decoder skips all other fields, such as managedFields."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


@overload
def parse(content: bytes) -> Any: ...


@overload
def parse(content: bytes, kind: type[T]) -> T: ...


def parse(content: bytes, kind: Any = Any) -> Any:
    """Parse JSON as ``kind``. In a text that nests too deep for the parser, whatever is below ``_DEPTH`` is left out.

    Raises:
        msgspec.DecodeError: if the content is not JSON, or is large and nests too deep.
        msgspec.ValidationError: if the content is not of this kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError:
        if len(content) > _PRUNED_BYTES:
            raise msgspec.DecodeError("the JSON nests too deep") from None
        return msgspec.json.decode(prune(content), type=kind)


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse an API object, without the fields of its metadata that the operator does not read.

    Raises:
        msgspec.MsgspecError: if the content is no JSON object, or nests too deep.
    """
    parts = parse(content, dict[str, msgspec.Raw])
    return {
        name: msgspec.to_builtins(parse(part, Meta)) if name == "metadata" else parse(part)
        for name, part in parts.items()
    }


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


def without_items(page: bytes) -> bytes:
    """Return the JSON of a page of a listing without its items.

    The API server writes the metadata of a page before the items, or the kind and the metadata after them.

    Raises:
        ValueError: if the page has no items.
    """
    begin = page.index(b'"items":[') + len(b'"items":[')
    end = page.rfind(b'],"kind":')
    return page[:begin] + (page[end:] if end >= begin else b"]}")


async def read_at_most(chunks: AsyncIterator[bytes], limit: int | None) -> bytes | None:
    """Return the content of a response, or None if it has more than ``limit`` bytes."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if limit is not None and len(content) > limit:
            return None
    return bytes(content)


def smaller(count: int) -> int:
    """Return how many objects to request at once if ``count`` objects were too much."""
    return max(count // 7, 1)
