"""Template compression: words are ranked once, and each rate keeps a prefix of that ranking."""

from promptintern.compress.build import Compressor, build_compressor
from promptintern.compress.precomputed import check_precomputed
from promptintern.compress.ranked import (
    CompressedTemplate,
    RankedTemplate,
    count_tokens,
    rank_units,
    split_units,
    uncompressed,
)

__all__ = [
    "CompressedTemplate",
    "Compressor",
    "RankedTemplate",
    "build_compressor",
    "check_precomputed",
    "count_tokens",
    "rank_units",
    "split_units",
    "uncompressed",
]
