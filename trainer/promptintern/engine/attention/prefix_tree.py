"""The prefix tree of a pack, which holds a common prefix of several prompts only once.

All prompts of a stage begin with the same template, and some also share their first examples. The tokens of a pack are
laid out depth first, so that a node's own tokens are followed immediately by the tokens of all its descendants.

The functions in this module are pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node of a prefix tree: tokens that several rows share, or the remaining tokens of one row.

    Attributes:
        row: The index, among the rows of the pack, of the first row that holds the node's tokens.
        position: The position of the node's first own token in every row that holds it.
        start: The index of the node's first own token among the tokens of the pack.
        end: The index right after the node's last own token, where the tokens of its descendants begin.
        subtree_end: The index right after the last token of the node and its descendants.
    """

    row: int
    position: int
    start: int
    end: int
    subtree_end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTree:
    """The prefix tree of a pack.

    Attributes:
        nodes: All nodes, parents before children. A node with ``subtree_end == end`` is a leaf, at which one row ends.
        answer_starts: The index of every row's first answer token among the tokens of the pack. The last prompt token
            of the row is right before it, in the same leaf.
        tokens: The number of tokens in the pack, with each shared token counted once.
    """

    nodes: tuple[Node, ...]
    answer_starts: tuple[int, ...]
    tokens: int


class Prefixes:
    """The common prefixes of prompts.

    Args:
        prompts: The token ids of every row's prompt, by row index.
    """

    def __init__(self, prompts: "Sequence[Sequence[int] | memoryview]") -> None:
        self._arrays = [np.asarray(ids, dtype=np.int32) for ids in prompts]

    def sort(self, rows: Sequence[int]) -> list[int]:
        """Return ``rows`` in lexicographic order of their prompts, so that common prefixes are adjacent.

        Equal prompts are ordered by row index.
        """
        # Big-endian bytes sort in the same order as the numbers.
        return sorted(rows, key=lambda row: (self._arrays[row].astype(">i4").tobytes(), row))

    def common_tokens(self, one: int, other: int) -> int:
        """Return the length of the common prefix of the prompts of two rows, excluding the last token of either prompt.

        Each row keeps its own last prompt token, because this token predicts the first answer token: if rows shared the
        token, their gradients would meet at one position, where the order of addition is not deterministic.
        """
        a, b = self._arrays[one], self._arrays[other]
        size = min(len(a), len(b)) - 1
        differ = np.flatnonzero(a[:size] != b[:size])
        return int(differ[0]) if len(differ) else size


def build_tree(
    common: Sequence[int],
    prompts: Sequence[int],
    inputs: Sequence[int],
    *,
    min_node_savings: int,
    prefix_tokens: int = 0,
) -> PrefixTree:
    """Build the prefix tree of a pack, with the rows in the given order.

    Args:
        common: The number of prompt tokens that every row except the first shares with the row before it; smaller than
            the length of either prompt.
        prompts: The number of prompt tokens of every row.
        inputs: The number of prompt and answer tokens of every row that are input to the model. The last answer token
            is not an input, because it predicts nothing.
        min_node_savings: The minimum number of tokens that a shared node must save. Tokens whose sharing would save
            less are repeated for each row.
        prefix_tokens: The number of tokens of the shared prefix, with which all rows begin and which is not in the
            tree; smaller than the length of any prompt.
    """
    count = len(inputs)
    nodes: list[list[int]] = []  # row, position, start, end, subtree_end
    answer_starts = [0] * count
    size = 0
    # A stack of work. A tuple stands for the rows first..last, which share their first `depth` tokens; a single number
    # is the index of a node whose descendants are all laid out.
    todo: list[tuple[int, int, int] | int] = [(0, count - 1, prefix_tokens)]
    while todo:
        work = todo.pop()
        if isinstance(work, int):
            nodes[work][4] = size
            continue
        first, last, depth = work
        if first == last:
            answer_starts[first] = size + prompts[first] - depth
            end = size + inputs[first] - depth
            nodes.append([first, depth, size, end, end])
            size = end
            continue
        shared = min(common[first:last])
        cuts = [i for i in range(first, last) if common[i] == shared]
        if (shared - depth) * (last - first) >= min_node_savings:
            nodes.append([first, depth, size, size + shared - depth, 0])
            todo.append(len(nodes) - 1)
            depth, size = shared, nodes[-1][3]
        edges = [first, *(cut + 1 for cut in cuts), last + 1]
        todo += [(a, b - 1, depth) for a, b in reversed(list(pairwise(edges)))]
    return PrefixTree(
        nodes=tuple(Node(row=r, position=p, start=s, end=e, subtree_end=t) for r, p, s, e, t in nodes),
        answer_starts=tuple(answer_starts),
        tokens=size,
    )
