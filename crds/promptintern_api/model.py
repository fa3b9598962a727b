"""spec.model: the base model whose weights learn the prompt."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from promptintern_api.base import ApiModel
from promptintern_api.secret_ref import SecretRef
from promptintern_api.uris import ModelUri


class Dtype(StrEnum):
    """The type of base weights and activations during training. LoRA parameters are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ModelSpec(ApiModel):
    """The base model of a job."""

    uri: Annotated[
        ModelUri,
        Field(
            description=(
                "URI of the base model: hf://ORG/NAME@REVISION (on a model hub), s3://BUCKET/PREFIX, file:///PATH (a "
                "mounted folder in the format that `save_pretrained` writes), or sample://formulas (shipped with the "
                "trainer). The weights must be safetensors. Code from the model's repository is never run."
            )
        ),
    ]
    dtype: Annotated[
        Dtype,
        Field(
            description=(
                "Type of the base weights and activations: float32 or bfloat16. LoRA parameters are float32 either way."
            )
        ),
    ] = Dtype.BFLOAT16
    secret_ref: Annotated[
        SecretRef | None,
        Field(
            description=(
                "Secret whose key `token` holds an access token for a gated model from a hub. If it is left out, the "
                "model is downloaded without a token. `promptintern run` does not read the Secret; it uses the "
                "environment variable HF_TOKEN."
            )
        ),
    ] = None
