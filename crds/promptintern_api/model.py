"""spec.model: the base model whose weights learn the prompt."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from promptintern_api.base import ApiModel
from promptintern_api.references import ModelUri, SecretRef


class Dtype(StrEnum):
    """The type that base weights and activations have while training. LoRA parameters are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ModelSpec(ApiModel):
    """The base model."""

    uri: Annotated[
        ModelUri,
        Field(
            description=(
                "Where the base model is: hf://ORG/NAME@REVISION (a model hub), s3://BUCKET/PREFIX, "
                "file:///PATH (a mounted folder as save_pretrained writes it), or sample://formulas "
                "(shipped with the trainer). Weights must be safetensors; code from the model's repository "
                "is never run."
            )
        ),
    ]
    dtype: Annotated[
        Dtype, Field(description="Type of base weights and activations. LoRA parameters stay in float32.")
    ] = Dtype.BFLOAT16
    secret_ref: Annotated[
        SecretRef | None,
        Field(
            description=("Secret with key `token`, for a gated model of a hub. Locally: environment variable HF_TOKEN.")
        ),
    ] = None
