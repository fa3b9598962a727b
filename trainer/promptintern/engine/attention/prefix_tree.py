"""The prefix tree of a pack, in which tokens that several prompts begin with stand once. Pure functions.

All prompts of a stage begin with the same template, and some with the same examples. The tokens of a pack are laid out
depth first, so that a node's own tokens are followed immediately by those of all its descendants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Tokens that several rows share, or the last tokens of one row.

    Attributes:
        row: Index in the pack of the first row that holds these tokens.
        position: Position of the node's first token in that row, and in every other row below this node.
        start: Index in the pack of the node's first own token.
        end: Index in the pack after the node's last own token, where its descendants begin.
        subtree_end: Index in the pack after the last token of its descendants.
    """

    row: int
    position: int
    start: int
    end: int
    subtree_end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTree:
    """The nodes of a pack, parents before children.

    Attributes:
        nodes: All nodes. A node with ``subtree_end == end`` is a leaf, which ends one row.
        answer_starts: For every row, the index in the pack of its first answer token. The prompt's last token stands
            right before it, and both are in the row's own leaf.
        tokens: Number of tokens in the pack, each shared token counted once.
    """

    nodes: tuple[Node, ...]
    answer_starts: tuple[int, ...]
    tokens: int


class Prefixes:
    """The common prefixes of prompts.

    Args:
        prompts: Token ids of every row's prompt, by row index.
    """

    def __init__(self, prompts: "Sequence[Sequence[int] | memoryview]") -> None:
        self._arrays = [np.asarray(ids, dtype=np.int32) for ids in prompts]

    def sort(self, rows: Sequence[int]) -> list[int]:
        """Return ``rows`` in lexicographic order of their prompts, so that common prefixes are adjacent.

        Equal prompts are ordered by row index.
        """
        # Big-endian bytes sort as the numbers do.
        return sorted(rows, key=lambda row: (self._arrays[row].astype(">i4").tobytes(), row))

    def common_tokens(self, one: int, other: int) -> int:
        """Return the length of the two prompts' common prefix, which never includes either prompt's last token.

        Each row keeps its last prompt token for itself, because that token predicts the first answer token: if several
        rows sent gradients to one position, the order in which they are added up would not be deterministic.
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
    """Build the tree of a pack's rows, in their order.

    Args:
        common: For every row but the first, the number of tokens that it shares with the row before it; smaller than
            the length of either prompt.
        prompts: Number of prompt tokens of every row.
        inputs: Number of prompt and answer tokens of every row that are input to the model. The last answer token is
            not, because it predicts nothing.
        min_node_savings: Tokens that a shared node has to save. Otherwise each of its rows holds these tokens itself.
        prefix_tokens: Tokens of the shared prefix, which all rows begin with and the tree does not hold; fewer than
            any prompt has.
    """
    count = len(inputs)
    nodes: list[list[int]] = []  # row, position, start, end, subtree_end
    answer_starts = [0] * count
    size = 0
    # A stack of work: rows first..last that share their first `depth` tokens; or, as one number, a node whose
    # descendants are all laid out.
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
