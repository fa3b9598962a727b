"""Ways to damage the bytes of a request, so that it may no longer be JSON or YAML."""

import random
from collections.abc import Callable


def _insert(body: bytearray, draw: random.Random, *choices: bytes) -> None:
    place = draw.randrange(len(body) + 1)
    body[place:place] = draw.choice(choices)


def _replace_byte(body: bytearray, draw: random.Random) -> None:
    body[draw.randrange(len(body))] = draw.randrange(256)


def _truncate(body: bytearray, draw: random.Random) -> None:
    del body[draw.randrange(1, len(body)) :]


def _insert_bytes(body: bytearray, draw: random.Random) -> None:
    _insert(
        body, draw, b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", b"\\u0000"
    )


def _insert_in_text(body: bytearray, draw: random.Random) -> None:
    """Insert bytes at the beginning of a text, so that the JSON around them stays valid."""
    places = [place + 3 for place in range(len(body)) if body[place : place + 3] == b': "']
    if places:
        place = draw.choice(places)
        body[place:place] = draw.choice(
            (b"\\u0000", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\\udc00\\ud800", b"\x01")
        )


def _repeat_key(body: bytearray, draw: random.Random) -> None:
    extra = (
        b'"spec": {}, ',
        b'"spec": null, ',
        b'"kind": "Pod", ',
        b'"metadata": {"name": "twice"}, ',
        b'"Spec": {}, ',
    )
    if body[:1] == b"{":
        body[1:1] = draw.choice(extra)
    end = body.rfind(b"}")
    if end > 0 and draw.random() < 0.5:
        body[end:end] = b', "spec": {"suspend": true}'


def _exotic_number(body: bytearray, draw: random.Random) -> None:
    numbers = (
        b"1e400",
        b"-1e400",
        b"NaN",
        b"Infinity",
        b"0x10",
        b"01",
        b"1.",
        b".5",
        b"1E3",
        b"3.0",
        b"1e-400",
        b"9" * 400,
    )
    name = draw.choice((b"activeDeadlineSeconds", b"ttlSecondsAfterFinished", b"suspend"))
    place = body.find(b'"spec": {')
    if place >= 0:
        place += len(b'"spec": {')
        body[place:place] = b'"' + name + b'": ' + draw.choice(numbers) + b", "


def _nest(body: bytearray, draw: random.Random) -> None:
    depth = draw.choice((50, 500, 5_000, 20_000))
    opening, closing = draw.choice(((b"[", b"]"), (b'{"a":', b"}")))
    name = draw.choice((b"x", b"spec", b"status", b"metadata"))
    if body[:1] == b"{":
        body[1:1] = b'"' + name + b'": ' + opening * depth + b"1" + closing * depth + b", "


def _large_key(body: bytearray, draw: random.Random) -> None:
    if body[:1] == b"{":
        body[1:1] = b'"' + b"k" * draw.choice((1_000, 300_000, 4_000_000)) + b'": 1, '


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _replace_byte,
    _truncate,
    _insert_bytes,
    _insert_in_text,
    _insert_in_text,
    _repeat_key,
    _exotic_number,
    _nest,
    _large_key,
)
