"""The template of a Bash command: its utilities, options and operators, without the values of its arguments.

NL2Bash (Lin et al., LREC 2018) calls the share of commands with the right template *template accuracy*. Its authors use
a parser of their own. The rule here, on the syntax tree of tree-sitter-bash:

- The name of each command is kept, as is the command after find's ``-exec``, ``-execdir``, ``-ok`` and ``-okdir``.
- Of each option, ``-`` or ``--`` and the letters and hyphens after it are kept; what follows, as in ``-n5`` or
  ``--include=*.c``, becomes ARG.
- Every other argument, and the target of a redirection, becomes ARG. The name of an assigned variable becomes VAR.
- Operators, keywords, and the brackets of substitutions and subshells are kept, with their order.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

ARGUMENT, VARIABLE = "ARG", "VAR"
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z-]*")
_BEFORE_COMMAND = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
_SUBSTITUTIONS = frozenset({"command_substitution", "process_substitution"})
_VALUES = frozenset(
    {
        *("word", "string", "raw_string", "ansi_c_string", "translated_string", "concatenation", "number"),
        *("simple_expansion", "expansion", "arithmetic_expansion", "brace_expression", "array", "heredoc_body"),
        *("regex", "extglob_pattern", "heredoc_start", "special_variable_name"),
    }
)
_MAX_DEPTH = 100


def template_of(command: str) -> tuple[str, ...] | None:
    """Return the template of a command, or None if the command is no valid Bash or is nested too deep."""
    source = command.strip().encode(errors="replace")
    root = _parser().parse(source).root_node
    if root.has_error or not source:
        return None
    try:
        return tuple(_tokens(root, source, 0))
    except RecursionError:
        return None


def template_match(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """Return 1.0 for every row whose prediction has the template of an accepted answer, else 0.0.

    A prediction that is no valid Bash matches only an answer that it equals.
    """
    return [
        float(any(_matches(prediction, answer) for answer in answers))
        for prediction, answers in zip(predictions, accepted, strict=True)
    ]


def _matches(prediction: str, answer: str) -> bool:
    if prediction.split() == answer.split():
        return True
    template = template_of(prediction)
    return template is not None and template == template_of(answer)


def _tokens(node: Any, source: bytes, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if node.type == "command":
        yield from _command_tokens(node, source, depth)
    elif node.type == "variable_name":
        yield VARIABLE
    elif node.type in _VALUES:
        yield from _value_tokens(node, source, depth)
    elif node.type == "comment":
        return
    elif not node.children:
        yield _text(node, source)
    else:
        for child in node.children:
            yield from _tokens(child, source, depth + 1)


def _command_tokens(node: Any, source: bytes, depth: int) -> Iterator[str]:
    is_command = False
    for child in node.children:
        text = _text(child, source)
        if child.type == "command_name" or (is_command and child.type == "word"):
            yield text
        elif option := _OPTION.match(text) if child.type in ("word", "concatenation", "number") else None:
            yield option[0]
            if option[0] != text:
                yield from _value_tokens(child, source, depth)
        else:
            yield from _tokens(child, source, depth + 1)
        is_command = text in _BEFORE_COMMAND


def _value_tokens(node: Any, source: bytes, depth: int) -> Iterator[str]:
    """Yield ARG for a value, or the commands whose output it contains."""
    inner = [*_substitutions(node, depth)]
    if not inner:
        yield ARGUMENT
    for each in inner:
        for child in each.children:
            yield from _tokens(child, source, depth + 1)


def _substitutions(node: Any, depth: int) -> Iterator[Any]:
    if depth > _MAX_DEPTH:
        raise RecursionError
    for child in node.children:
        if child.type in _SUBSTITUTIONS:
            yield child
        else:
            yield from _substitutions(child, depth + 1)


def _text(node: Any, source: bytes) -> str:
    return source[node.start_byte : node.end_byte].decode(errors="replace")


@cache
def _parser() -> Any:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))
