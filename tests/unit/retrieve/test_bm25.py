"""BM25 against bm25s's own scores, and its limit on work."""

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.retrieve.bm25 import BM25Index, terms_in

WORD = st.sampled_from(
    ["find", "list", "files", "in", "the", "all", "directory", "of", "size", "name", "text", "sort", "unique", "lines"]
)
TEXTS = st.lists(st.lists(WORD, max_size=9).map(" ".join), min_size=1, max_size=30)


def reference(texts: list[str], query: str, k: int) -> tuple[list[int], list[float]]:
    """Score every document with bm25s; ties are by index."""
    model = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    model.index([terms_in(text) or [""] for text in texts], show_progress=False)
    terms = [word for word in terms_in(query) if word in model.vocab_dict]
    scores = model.get_scores(terms) if terms else np.zeros(len(texts), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: (-round(float(scores[i]), 4), i))
    return order[:k], [round(float(scores[i]), 4) for i in order[:k]]


@settings(max_examples=150)
@given(texts=TEXTS, query=st.lists(WORD | st.just("unknown"), max_size=7).map(" ".join), k=st.integers(1, 8))
def test_within_the_limit_the_best_are_bm25s_best(texts: list[str], query: str, k: int) -> None:
    k = min(k, len(texts))
    result = BM25Index(texts).top(query, k)
    best, scores = reference(texts, query, len(texts))
    by_document = dict(zip(best, scores, strict=True))
    assert len(set(result)) == k
    # Equal up to rounding: two orders of the same sum may differ in the last digit.
    assert [by_document[i] for i in result] == pytest.approx(scores[:k], abs=2e-3)


@given(texts=TEXTS, query=st.lists(WORD, max_size=7).map(" ".join), limit=st.integers(1, 40))
@settings(max_examples=100)
def test_fewer_are_the_beginning_of_more_whatever_the_limit(texts: list[str], query: str, limit: int) -> None:
    index = BM25Index(texts, max_postings=limit)
    whole = index.top(query, len(texts))
    assert sorted(whole) == list(range(len(texts)))
    for k in range(1, len(texts)):
        assert index.top(query, k) == whole[:k]


def test_ties_and_strangers_come_in_the_order_of_the_pool() -> None:
    index = BM25Index(["b x", "a x", "a x", "c", "--"])
    assert index.top("a", 5) == [1, 2, 0, 3, 4]
    assert index.top("?!", 3) == [0, 1, 2]


def test_a_cut_query_keeps_rare_words_and_scores_all_of_them() -> None:
    frequent = [f"the {'of ' * (i % 2)}x{i % 50}" for i in range(3000)]
    texts = [*frequent, "the of zebra a b c", "the of zebra x7", "zebra a b"]
    query = "the of zebra x7"
    assert BM25Index(texts, max_postings=500).top(query, 3) == BM25Index(texts).top(query, 3) == [3001, 3002, 3000]


def test_one_search_leaves_nothing_behind_for_the_next() -> None:
    texts = [f"word{i % 7} word{i % 5} word{i % 3}" for i in range(60)]
    index, queries = BM25Index(texts, max_postings=25), [f"word{i} word{i + 1} word2" for i in range(5)]
    fresh = [BM25Index(texts, max_postings=25).top(query, 4) for query in queries]
    assert [index.top(query, 4) for query in queries] == fresh
    assert [index.top(query, 4) for query in reversed(queries)] == fresh[::-1]


def test_chinese_and_japanese_are_found_by_their_characters() -> None:
    assert terms_in("列出、all 文件_1。　ファイル") == ["列", "出", "all", "文", "件", "_1", *"ファイル"]
    pool = ["删除所有文件", "列出目录中的文件", "显示时间"]
    assert BM25Index(pool).top("列出所有目录", 1) == [1]
