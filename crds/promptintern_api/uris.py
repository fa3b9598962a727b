"""The URIs that a job may name for models, data and storage."""

from typing import Annotated

from pydantic import StringConstraints

ModelUri = Annotated[str, StringConstraints(pattern=r"^(hf|s3|file|sample)://.+$", max_length=1024)]
DataUri = Annotated[str, StringConstraints(pattern=r"^(hf|s3|file|sample)://.+$", max_length=1024)]
StorageUri = Annotated[str, StringConstraints(pattern=r"^(s3|file)://.+$", max_length=1024)]
