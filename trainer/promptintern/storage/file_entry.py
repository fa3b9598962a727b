"""The size and digest of a stored file."""

from pydantic import BaseModel, ConfigDict, Field


class FileEntry(BaseModel):
    """A file's size in bytes and the SHA-256 of its content, in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
