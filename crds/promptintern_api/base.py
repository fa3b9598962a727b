"""What every API model shares: camelCase on the wire, no unknown fields, rules that the CRD carries too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One check across fields, written twice: for the API server and for Python.

    ``cel`` becomes an entry of ``x-kubernetes-validations`` on the object that holds the rule, ``holds`` is
    the same check on the model. A test runs both on the same documents.
    """

    field: str
    """The field, relative to the model, that the user has to change (camelCase)."""
    message: str
    cel: str
    holds: Callable[[Any], bool]
    transition: bool = False
    """True if the rule compares with ``oldSelf``. Such a rule has no Python half: ``holds`` is not called."""


def _numeral(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_numeral)]
"""A float. Text that is a numeral will do, since PyYAML reads ``2e-4`` as text; kubectl does not."""


class ApiModel(BaseModel):
    """A frozen object of the API. Subclasses list what crosses their fields in ``rules``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_enum_values=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _left_out_if_null(cls, data: Any) -> Any:
        """A key without a value (``training:``) is a key left out, as for the API server."""
        if not isinstance(data, dict):
            return data
        known = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in data.items() if value is not None or key not in known}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.rules if not rule.transition and not rule.holds(self)]
        if broken:
            # One error carries all broken rules of this object: pydantic allows a validator a single error.
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
        """The object as it stands in YAML: camelCase, without unset optional fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
