"""The base class of all API models, with camelCase on the wire, no unknown fields, and rules that the CRD also has."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A check across fields, written once for the API server and once for Python.

    ``cel`` becomes an entry of ``x-kubernetes-validations`` on the object that has the rule; ``holds`` is the same
    check on the model. A test runs both on the same documents.
    """

    field: str
    """The path of the field that the user has to change, in camelCase and relative to the model."""
    message: str
    """A predicate about ``field``, such as "must not repeat a metric"."""
    cel: str
    holds: Callable[[Any], bool]
    transition: bool = False
    """Whether the rule compares an object with ``oldSelf``, its previous version. Such a rule exists in CEL only, and
    ``holds`` is never called.
    """


def no_repeats(field: str, item: str) -> Rule:
    """Return the rule that no item occurs twice in the list ``field`` of the model, which may be left out.

    Args:
        field: The name of the list on the wire, which must also be its name in Python.
        item: An item of the list, with its article, such as "a metric".
    """

    def holds(model: Any) -> bool:
        items = getattr(model, field) or ()
        return len(set(items)) == len(items)

    cel = f"!has(self.{field}) || self.{field}.all(m, self.{field}.exists_one(n, n == m))"
    return Rule(field=field, message=f"must not repeat {item}", cel=cel, holds=holds)


def _parse_numeral(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_parse_numeral)]
"""A float. A numeral in a string is accepted too: for kubectl ``2e-4`` is a number, but PyYAML reads it as a string."""


_TIME = (
    r"^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""The times that Python parses and can calculate with. The format date-time of the API server has more, such as a zone
of +99:99.
"""
Time = Annotated[
    datetime,
    BeforeValidator(lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _TIME, "maxLength": 35}),
]
"""A time. On the wire it is a string, which strict validation would refuse if it were not parsed first."""


def map_by(key: str) -> dict[str, Any]:
    """Return the schema keywords of a list whose items server-side apply merges by ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class ApiModel(BaseModel):
    """A frozen object of the API. Subclasses list the checks across their fields in ``rules``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_enum_values=False,
        defer_build=True,  # a program builds the validators of the models that it uses, and no others
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """Treat a key without a value (``training:``) as a key that is left out, as the API server does."""
        if not isinstance(data, dict):
            return data
        aliases = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in data.items() if value is not None or key not in aliases}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.rules if not rule.transition and not rule.holds(self)]
        if broken:
            # A validator can raise only one error in pydantic, so this error carries all broken rules of the object.
            raise PydanticCustomError(
                "rules",
                "{text}",
                {
                    "text": "; ".join(f"{rule.field}: {rule.message}" for rule in broken),
                    "broken": [(rule.field, rule.message) for rule in broken],
                },
            )
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the object as it appears in YAML: in camelCase, without optional fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
