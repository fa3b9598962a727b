"""Prefix trees: every row can be read off its branch, and shared tokens are in the tree once."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from promptintern.engine.attention.prefix_tree import Node, Prefixes, PrefixTree, build_tree

ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.integers(1, 4)), min_size=1, max_size=12
)
"""Prompts over two tokens, which have long common prefixes, and the number of answer tokens of each."""
HEAD = [7] * 30


def tree_of(prompts: list[list[int]], answers: list[int]) -> PrefixTree:
    prefixes = Prefixes(prompts)
    return build_tree(
        [prefixes.common_tokens(i, j) for i, j in pairwise(range(len(prompts)))],
        [len(prompt) for prompt in prompts],
        [len(prompt) + answer - 1 for prompt, answer in zip(prompts, answers, strict=True)],
        min_node_savings=16,
    )


def branch(tree: PrefixTree, index: int) -> list[Node]:
    """The nodes from the root to the token at ``index``."""
    return [node for node in tree.nodes if node.start <= index < node.subtree_end]


def sorted_rows(rows: list[tuple[list[int], int]]) -> tuple[list[list[int]], list[int]]:
    prompts = [HEAD + prompt for prompt, _ in rows]
    order = Prefixes(prompts).sort(range(len(rows)))
    return [prompts[i] for i in order], [rows[i][1] for i in order]


@given(ROWS)
def test_every_rows_tokens_are_on_its_branch_in_order(rows: list[tuple[list[int], int]]) -> None:
    prompts, answers = sorted_rows(rows)
    tree = tree_of(prompts, answers)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = tree.answer_starts[row] + answer - 2
        nodes = branch(tree, end)
        # A node's tokens come from its first row; those on this branch are this row's as well.
        read = [
            prompts[node.row][node.position + i] if node.position + i < len(prompts[node.row]) else "answer"
            for node in nodes
            for i in range(min(node.end, end + 1) - node.start)
        ]
        assert read == [*prompt, *["answer"] * (answer - 1)]
        assert [node.position for node in nodes] == [sum(n.end - n.start for n in nodes[:i]) for i in range(len(nodes))]
        last = nodes[-1]
        assert last.start < tree.answer_starts[row], "the prompt's last token is the row's own"
        assert last.position + tree.answer_starts[row] - last.start == len(prompt)


@given(ROWS)
def test_nodes_fill_the_pack_depth_first(rows: list[tuple[list[int], int]]) -> None:
    tree = tree_of(*sorted_rows(rows))
    assert [node.start for node in tree.nodes] == [0, *(node.end for node in tree.nodes[:-1])]
    assert tree.nodes[-1].end == tree.tokens
    for one in tree.nodes:
        for other in tree.nodes:
            inside = one.end <= other.start and other.subtree_end <= one.subtree_end
            assert (
                one is other
                or inside
                or other.start >= one.subtree_end
                or other.subtree_end <= one.start
                or other.end <= one.start
            )


@given(ROWS)
def test_the_tree_has_every_token_and_no_more_than_without_sharing(rows: list[tuple[list[int], int]]) -> None:
    prompts, answers = sorted_rows(rows)
    tree = tree_of(prompts, answers)
    shared = {tuple(prompt[:i]) for prompt in prompts for i in range(1, len(prompt))}
    most = sum(len(prompt) + answer - 1 for prompt, answer in zip(prompts, answers, strict=True))
    assert len(shared) + sum(answers) <= tree.tokens <= most
    if len(rows) > 1:
        assert tree.tokens <= most - (len(rows) - 1) * len(HEAD)


def test_a_template_and_two_groups_of_examples() -> None:
    template, one, other = list(range(100, 140)), list(range(200, 220)), list(range(300, 330))
    prompts = [template + one + [1], template + one + [2], template + other + [3], template + other + [4], template]
    order = Prefixes(prompts).sort(range(5))
    assert order == [4, 0, 1, 2, 3]
    tree = tree_of([prompts[i] for i in order], [3] * 5)
    assert [(n.position, n.end - n.start, n.subtree_end > n.end) for n in tree.nodes] == [
        (0, 39, True),
        (39, 3, False),
        (39, 21, True),
        (60, 3, False),
        (60, 3, False),
        (39, 31, True),
        (70, 3, False),
        (70, 3, False),
    ]
    # The prompt that is all template keeps its last token.
    assert tree.answer_starts[0] == 40


def test_equal_prompts_share_all_but_the_last_token() -> None:
    tree = tree_of([HEAD, HEAD, HEAD], [1, 1, 1])
    assert tree.tokens == len(HEAD) - 1 + 3
    assert tree.answer_starts == (30, 31, 32)
