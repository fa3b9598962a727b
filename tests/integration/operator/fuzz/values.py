"""Random values: values that a schema allows, with a preference for its limits, and values that no schema expects."""

import random
import string
from collections.abc import Callable, Container, Mapping, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser of patterns in the standard library
from typing import Any

Schema = Mapping[str, Any]

WORDS = (
    *("True", "False", "Unknown", "Complete", "Failed", "Running", "Pending", "Succeeded", "Suspended", "Suspending"),
    *("Initializing", "ValidationFailed", "SUCCEEDED", "FAILED", "STOPPED", "RUNNING", "OOMKilled", "Evicted"),
    *("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "Unschedulable", "DisruptionTarget", "PodScheduled"),
    *("Ready", "ReplicaFailure", "PreemptionByScheduler", "NodeLost", "QuotaReserved", "SuccessCriteriaMet"),
    *("DeadlineExceeded", "ray-head", "ray-worker", "logs", "preflight", "User", "Infrastructure", "True\n", "1", "0"),
    *("-1", "1e9", "0.1", "null", "{}", "[]", "{query}", "{examples}{query}", "{answer}", "promptintern-operator"),
    "exit code 2",
    "exit code " + "9" * 5_000,
    "Job entrypoint command failed with exit code -٣٣",
)
"""Texts to which the operator reacts, or may react wrongly."""
VALID_TIMES = (
    *("2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1000-01-01T00:00:00+23:59", "2999-12-31T23:59:59-23:59"),
    *("2024-02-29T12:00:00.123456789+05:30", "2026-11-30T00:00:00Z"),
)
TIMES = (
    *VALID_TIMES,
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2025-02-31T00:00:00Z", "2025-01-01T00:00:00+99:99"),
    *("2016-12-31T23:59:60Z", "2026-01-01T00:00:00.123456789Z", "2026-01-01t00:00:00z", "2026-01-01 00:00:00Z"),
    *("2026-W01-1", "1767225600", "now", ""),
)
KEYS = ("__proto__", "$ref", "metadata", "status", "spec", "", "a" * 300, "é", "\x00", "a.b/c", "-", "\ud800")
ODD = (
    *("\x00", "\x1b[31m", "\r\n", "\u2028", "\u202e", "\ufeff", "\ufffe", "\U0010ffff", "\ud800", "\udfff", "\x7f"),
    *("e\u0301", "ﷺ", "İ", "ß", "٣", "𝟘", "\U0001f9d1\u200d\U0001f680", '"', "\\", "${A}", "$(A)", "%s", "[bold]"),
)
NUMBERS = (
    *(0, 1, -1, 2, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**20, 10**21, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 5e-324, 1e-320, 1e16, 1e21, 1.7976931348623157e308, -1e308),
)
_LONGEST = 50_000
"""The largest number of characters that is drawn without a limit in the schema."""
_DEEPEST = 12


class Values:
    """A source of values that depend only on ``draw``; ``definitions`` are the schemas to which ``$ref`` refers."""

    def __init__(self, draw: random.Random, definitions: Mapping[str, Schema]) -> None:
        self.draw = draw
        self._definitions = definitions
        self.names: Container[str] | None = None
        """The names of the only optional fields that are set, or None if all may be set."""
        self._faults = draw.choice((0.0, 0.0, 0.0, 0.01, 0.1))
        """The probability with which a value breaks its schema."""
        self._left = draw.choice((2_000, 20_000, 20_000, 200_000, 2_000_000))
        """The number of characters that long texts may still have; the API server takes at most 3 MiB at once."""

    def of(self, schema: Schema, *, fullness: float = 0.4, depth: int = 0) -> Any:
        """Return a value that ``schema`` allows in most cases; an optional field is set with probability ``fullness``.

        Rules across fields are not considered.
        """
        schema = self._resolved(schema)
        if self._is_faulty():
            return self.anything()
        if schema.get("enum"):
            return self.draw.choice(schema["enum"])
        if schema.get("x-kubernetes-int-or-string"):
            return self.draw.choice([self._number({"type": "integer"}), self.draw.choice(WORDS)])
        makers: dict[str, Callable[[], Any]] = {
            "object": lambda: self._object(schema, fullness, depth),
            "array": lambda: self._array(schema, fullness, depth),
            "string": lambda: self._text_of(schema),
            "integer": lambda: self._number(schema),
            "number": lambda: self._number(schema),
            "boolean": lambda: self.draw.random() < 0.5,
        }
        return makers.get(schema.get("type", ""), self.anything)()

    def _resolved(self, schema: Schema) -> Schema:
        """Return ``schema`` without a reference to another schema."""
        while reference := schema.get("$ref") or next((s.get("$ref") for s in schema.get("allOf", [])), None):
            schema = self._definitions[reference.rpartition("/")[2]]
        return schema

    def anything(self, depth: int = 0) -> Any:
        """Return an arbitrary JSON value."""
        kind = self.draw.random()
        count = self.draw.choice((0, 1, 2, 3, 30) if depth == 0 else (0, 1, 2, 3))
        if depth < 5 and kind < 0.2:
            return {self.key(): self.anything(depth + 1) for _ in range(count)}
        if depth < 5 and kind < 0.4:
            return [self.anything(depth + 1) for _ in range(count)]
        if kind < 0.45:
            return self.nested(self.draw.choice((20, 90, 110, 500)))
        if kind < 0.7:
            return self.draw.choice(NUMBERS)
        return None if kind < 0.75 else self.draw.random() < 0.5 if kind < 0.8 else self.text(0, None)

    def nested(self, depth: int) -> Any:
        """Return objects and lists that nest ``depth`` levels deep."""
        value: Any = {}
        for _ in range(depth):
            value = {self.draw.choice(("a", "nodeAffinity", "items")): value} if self.draw.random() < 0.5 else [value]
        return value

    def key(self) -> str:
        """Return a name for a field."""
        return self.draw.choice(KEYS) if self.draw.random() < 0.3 else self.draw.choice(string.ascii_letters)

    def text(self, low: int, high: int | None) -> str:
        """Return a word of this module, or a text of ``low`` to ``high`` characters."""
        choice, most = self.draw.random(), high if high is not None else _LONGEST
        if choice < 0.35:
            return self.draw.choice(WORDS)
        if choice < 0.45:
            return self.draw.choice(TIMES)
        length = self.draw.randint(low, max(low, min(most, low + 30)))
        if choice > 0.94 or (choice > 0.85 and most < 2_000):
            length = min(most, max(self._left, low))
        self._left = max(self._left - length, 0)
        letters = [*ODD, *string.ascii_lowercase] if self.draw.random() < 0.5 else [*string.ascii_lowercase, *"0-./:"]
        part = "".join(self.draw.choices(letters, k=min(length, 200)))
        return (part * (length // max(len(part), 1) + 1))[:length]

    def _object(self, schema: Schema, fullness: float, depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        chance = fullness if depth < _DEEPEST else 0.0
        value = {
            name: self.of(item, fullness=fullness * 0.9, depth=depth + 1)
            for name, item in properties.items()
            if (name in required and not self._is_faulty())
            or ((self.names is None or name in self.names) and self.draw.random() < chance)
        }
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for _ in range(self._count(schema.get("minProperties", 0), schema.get("maxProperties"))):
                value[self.text(1, 63)] = self.of(extra, fullness=fullness, depth=depth + 1)
        if self._is_faulty():
            value[self.key()] = self.anything(depth)
        return value

    def _array(self, schema: Schema, fullness: float, depth: int) -> list[Any]:
        most = schema.get("maxItems") if depth < _DEEPEST else 0
        items = [
            self.of(schema["items"], fullness=fullness * 0.9, depth=depth + 1)
            for _ in range(self._count(schema.get("minItems", 0), most))
        ]
        keys = schema.get("x-kubernetes-list-map-keys", ())
        if keys and all(isinstance(item, dict) for item in items) and not self._is_faulty():
            return list({tuple(str(item.get(key)) for key in keys): item for item in items}.values())
        return items

    def _count(self, low: int, high: int | None) -> int:
        most = high if high is not None else 20
        if self._is_faulty():
            return min(most + 1, 200)
        return min(self.draw.choice((low, low, low + 1, low + 1, low + 2, low + 4)), most)

    def _text_of(self, schema: Schema) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if self._is_faulty():
            return self.text(low, high + 1 if high is not None else None)
        if schema.get("format") == "date-time":
            return self.draw.choice(VALID_TIMES)
        if pattern := schema.get("pattern"):
            return self._matching(_parser.parse(pattern))[:high]
        return self.text(low, high)[:high].ljust(low, "a")

    def _number(self, schema: Schema) -> float:
        """Return a number, often at or near a limit of the schema."""
        is_integer, bits = schema.get("type") == "integer", 31 if schema.get("format") == "int32" else 63
        low = schema.get("minimum", -(2**bits) if is_integer else -1e308)
        high = schema.get("maximum", 2**bits - 1 if is_integer else 1e308)
        if self._is_faulty():
            return self.draw.choice((*NUMBERS, low - 1, high + 1))
        fitting = [n for n in (*NUMBERS, low, low, high, high) if low <= n <= high and (n == int(n) or not is_integer)]
        if self.draw.random() < 0.5:
            return self.draw.choice(fitting)
        inside = low + (min(high, low + 2**31) - low) * self.draw.random() ** 4
        return int(inside) if is_integer else inside

    def _is_faulty(self) -> bool:
        return self._faults > 0 and self.draw.random() < self._faults

    def _matching(self, parsed: Sequence[tuple[Any, Any]]) -> str:
        """Return a text that matches a parsed pattern. Only what the patterns of our schemas need is supported."""
        parts = []
        for kind, argument in parsed:
            if kind is _constants.LITERAL:
                parts.append(chr(argument))
            elif kind is _constants.ANY:
                parts.append(self.draw.choice([*ODD, *string.ascii_letters]).strip())
            elif kind is _constants.IN:
                parts.append(self._member(argument))
            elif kind is _constants.MAX_REPEAT:
                low, high, inner = argument
                length = self.draw.randint(low, min(int(high), low + 12))
                parts.extend(self._matching(inner) for _ in range(length))
            elif kind is _constants.SUBPATTERN:
                parts.append(self._matching(argument[-1]))
            elif kind is _constants.BRANCH:
                parts.append(self._matching(self.draw.choice(argument[1])))
            elif kind is not _constants.AT:
                raise NotImplementedError(f"{kind} in a pattern")
        return "".join(parts)

    def _member(self, options: Sequence[tuple[Any, Any]]) -> str:
        kind, argument = self.draw.choice(options)
        if kind is _constants.RANGE:
            return chr(self.draw.randint(*argument))
        if kind is _constants.LITERAL:
            return chr(argument)
        return self.draw.choice(string.ascii_letters + string.digits)
