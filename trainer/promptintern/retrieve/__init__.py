"""Few-shot examples for a query, from the training rows: never the query itself nor a duplicate of it."""

from promptintern.retrieve.build import build_retriever
from promptintern.retrieve.encoder import TextEncoder, load_encoder
from promptintern.retrieve.pool import Retriever

__all__ = ["Retriever", "TextEncoder", "build_retriever", "load_encoder"]
