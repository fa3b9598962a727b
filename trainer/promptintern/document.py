"""The base class of the JSON documents that a run stores."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    """A JSON document, or a part of one, with names in camelCase.

    Instances are immutable. Unknown fields are refused, and so are NaN and infinity, because JSON cannot express them.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )
