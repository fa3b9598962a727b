"""Properties of every retriever: no duplicates, nested results, and independence of the other queries."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.errors import UserError
from promptintern.retrieve import TextEncoder, build_retriever, load_encoder
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.types import Row
from promptintern_api.prompt import Retriever as RetrieverSpec
from promptintern_api.prompt import RetrieverKind

KINDS = list(RetrieverKind)
QUERIES = st.lists(
    st.lists(st.sampled_from(["find", "Find", "all", "files", "lines", "size", "sort."]), min_size=1, max_size=4).map(
        " ".join
    ),
    min_size=1,
    max_size=12,
)


class LetterEncoder:
    """Vectors of letter counts."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        counts = [[1.0 + text.count(chr(c)) for c in range(ord("a"), ord("z") + 1)] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts).reshape(len(texts), 26), dim=-1)


def spec_of(kind: RetrieverKind) -> RetrieverSpec:
    return RetrieverSpec(kind=kind, model_uri="file:///encoder" if kind is RetrieverKind.EMBEDDING else None)


def build(kind: RetrieverKind, queries: list[str], *, seed: int = 0) -> Any:
    pool = [Row(query=q, answer=str(i), answers=(str(i),), id=str(i), where=f"f:{i}") for i, q in enumerate(queries)]
    return build_retriever(spec_of(kind), pool, seed=seed, encoder=LetterEncoder())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(pool=QUERIES, queries=QUERIES, data=st.data())
def test_never_the_query_nor_a_duplicate_and_nested(
    kind: RetrieverKind, pool: list[str], queries: list[str], data: st.DataObject
) -> None:
    distinct = {normalise_query(query) for query in pool}
    room = len(distinct) - bool(distinct & {normalise_query(query) for query in queries})
    k = data.draw(st.integers(0, room))
    retriever = build(kind, pool)
    neighbours = retriever.neighbours(queries, k)
    for query, rows in zip(queries, neighbours, strict=True):
        keys = [normalise_query(pool[i]) for i in rows]
        assert len(rows) == len(set(keys)) == k
        assert normalise_query(query) not in keys
    if k > 1:
        assert retriever.neighbours(queries, k - 1) == [rows[1:] for rows in neighbours]
    for query, rows in zip(queries, neighbours, strict=True):
        assert build(kind, pool).neighbours([query], k) == [rows]


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_stands_last(kind: RetrieverKind) -> None:
    pool = ["sort lines by size", "sort lines", "count words", "zip a folder"]
    if kind is RetrieverKind.RANDOM:
        first = [build(kind, pool, seed=seed).neighbours(["other"], 4)[0] for seed in range(20)]
        assert len({tuple(rows) for rows in first}) > 5
        assert first == [build(kind, pool, seed=seed).neighbours(["other"], 4)[0] for seed in range(20)]
    else:
        assert build(kind, pool).neighbours(["sort the lines"], 2) == [[0, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_that_is_too_small_is_refused(kind: RetrieverKind) -> None:
    retriever = build(kind, ["a b", "A b.", "c d", "e f"])
    assert [sorted(rows) for rows in retriever.neighbours(["new"], 3)] == [[0, 2, 3]]
    with pytest.raises(
        UserError, match=r"is 3, but the training rows have 3 distinct queries, so a prompt can have at most 2"
    ) as caught:
        retriever.neighbours(["new", "a  B"], 3)
    assert caught.value.problems[0].where == "spec.schedule.shots"


@pytest.mark.parametrize("kind", KINDS)
def test_no_shots_and_no_queries(kind: RetrieverKind) -> None:
    retriever = build(kind, ["a b"])
    assert retriever.neighbours(["x", "y"], 0) == [[], []]
    assert retriever.neighbours([], 5) == []


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder: Path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(40))]
    core = Tokenizer(models.WordLevel(vocab={w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return load_encoder(folder)


def test_a_vector_is_the_mean_of_the_last_states(encoder: TextEncoder) -> None:
    text = "w1 w2 w3"
    ids = torch.tensor([encoder._tokenizer(text)["input_ids"]])
    with torch.no_grad():
        mean = encoder._model(input_ids=ids).last_hidden_state[0].mean(0)
    assert torch.allclose(encoder.encode([text])[0], mean / mean.norm(), atol=1e-5)


def test_a_vector_does_not_depend_on_its_company(encoder: TextEncoder) -> None:
    texts = [" ".join(f"w{(i * j) % 40}" for j in range(1, 2 + i % 30)) for i in range(70)]
    together = encoder.encode(texts)
    for index in (0, 7, 29, 69):
        assert torch.equal(encoder.encode([texts[index]])[0], together[index])
    assert torch.equal(encoder.encode(texts[::-1]).flip(0), together)


def test_a_text_beyond_the_limit_is_cut(encoder: TextEncoder) -> None:
    long = " ".join(f"w{i % 40}" for i in range(100))
    assert torch.equal(encoder.encode([long]), encoder.encode([" ".join(long.split()[:64])]))


def test_queries_get_the_same_neighbours_in_any_batch(encoder: TextEncoder) -> None:
    pool = [
        Row(
            query=" ".join(f"w{(i * j) % 40}" for j in range(1, 2 + i % 9)), answer="a", answers=("a",), id="", where=""
        )
        for i in range(150)
    ]
    retriever = build_retriever(spec_of(RetrieverKind.EMBEDDING), pool, seed=0, encoder=encoder)
    queries = [row.query for row in pool] + [f"w{i} w1" for i in range(20)]
    together = retriever.neighbours(queries, 5)
    assert [retriever.neighbours([query], 5)[0] for query in queries] == together


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spec\.prompt\.retriever\.modelUri: the encoder in"):
        load_encoder(tmp_path)
