"""The prefix tree of a pack: what its prompts have in common is computed once. Pure.

In every stage all prompts begin with the same template, and some with the same examples. The tokens of a pack are laid
out depth first, so that a node's own tokens come right before those of all its descendants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Tokens that several rows share, or the last part of one row.

    Attributes:
        row: Place in the pack of the first row that these tokens come from.
        begin: Their position in that row, and in every other row below this node.
        start: Where they begin in the pack.
        end: Where they end, and the descendants' begin.
        stop: Where the descendants' end.
    """

    row: int
    begin: int
    start: int
    end: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTree:
    """The nodes of a pack, parents before children.

    Attributes:
        nodes: All nodes; one with ``stop == end`` ends a row.
        answer: For every row, the place where its answer tokens begin; the prompt's last token is right before, and
            both are in the row's own last node.
        tokens: Of the pack, each shared token once.
    """

    nodes: tuple[Node, ...]
    answer: tuple[int, ...]
    tokens: int


class Prefixes:
    """Which prompts begin alike.

    Args:
        prompts: Token ids of every row's prompt, by row index.
    """

    def __init__(self, prompts: "Sequence[Sequence[int] | memoryview]") -> None:
        # Big-endian bytes sort as the numbers do.
        self._arrays = [np.asarray(ids, dtype=np.int32) for ids in prompts]

    def sort(self, rows: Sequence[int]) -> list[int]:
        """``rows`` so that those that begin alike are neighbours; ties by row index."""
        return sorted(rows, key=lambda row: (self._arrays[row].astype(">i4").tobytes(), row))

    def common(self, one: int, other: int) -> int:
        """Tokens at the start of both prompts that are the same, but for each prompt's last.

        A row keeps its last prompt token for itself: it predicts the answer's first token, and gradients that several
        rows send to one place would be added up in no certain order.
        """
        a, b = self._arrays[one], self._arrays[other]
        size = min(len(a), len(b)) - 1
        differ = np.flatnonzero(a[:size] != b[:size])
        return int(differ[0]) if len(differ) else size


def plant(
    common: Sequence[int], prompts: Sequence[int], inputs: Sequence[int], *, least_saved: int, trunk: int = 0
) -> PrefixTree:
    """The tree of a pack's rows in their order.

    Args:
        common: For every row but the first, the tokens that it shares with the row before: fewer than either prompt.
        prompts: Prompt tokens of every row.
        inputs: Prompt and answer tokens of every row that go into the model (the last one predicts nothing).
        least_saved: Tokens that a node has to save, or what its rows share is there for each of them.
        trunk: Tokens that all rows begin with and the tree does not hold: fewer than any prompt.
    """
    count = len(inputs)
    nodes: list[list[int]] = []  # row, begin, start, end, stop
    answer = [0] * count
    size = 0
    # Work to do, last first: rows first..last that share their first `depth` tokens; or (as one number) a node whose
    # descendants are all laid out.
    todo: list[tuple[int, int, int] | int] = [(0, count - 1, trunk)]
    while todo:
        work = todo.pop()
        if isinstance(work, int):
            nodes[work][4] = size
            continue
        first, last, depth = work
        if first == last:
            answer[first] = size + prompts[first] - depth
            end = size + inputs[first] - depth
            nodes.append([first, depth, size, end, end])
            size = end
            continue
        shared = min(common[first:last])
        cuts = [i for i in range(first, last) if common[i] == shared]
        if (shared - depth) * (last - first) >= least_saved:
            nodes.append([first, depth, size, size + shared - depth, 0])
            todo.append(len(nodes) - 1)
            depth, size = shared, nodes[-1][3]
        edges = [first, *(cut + 1 for cut in cuts), last + 1]
        todo += [(a, b - 1, depth) for a, b in reversed(list(pairwise(edges)))]
    return PrefixTree(
        nodes=tuple(Node(row=r, begin=b, start=s, end=e, stop=p) for r, b, s, e, p in nodes),
        answer=tuple(answer),
        tokens=size,
    )
