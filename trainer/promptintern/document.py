"""The base class of the JSON documents that a run stores."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    """A JSON document, or a part of one, whose field names are in camelCase.

    Instances are immutable. Unknown fields are refused. NaN and infinity are also refused, because JSON cannot
    express them.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )
