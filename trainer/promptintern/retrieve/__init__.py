"""Retrieval of few-shot examples from the training rows, without the row of the query itself and its duplicates."""

from promptintern.retrieve.build import build_retriever
from promptintern.retrieve.encoder import TextEncoder, load_encoder
from promptintern.retrieve.pool import Retriever

__all__ = ["Retriever", "TextEncoder", "build_retriever", "load_encoder"]
