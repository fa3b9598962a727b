"""The process that runs one program and its tests. `process.py` starts it, and it shuts itself in before anything runs.

    python -I -S child.py TOKEN_FD REPORT_FD < request.json

It may import only the standard library and the modules beside it. The request holds the program, its tests and the
limits. After the last test, this process copies a token from TOKEN_FD to REPORT_FD. Until then the token is in a pipe,
where a program does not come across it, as it would in the variables of this module.
"""

import ast
import json
import os
import resource
import signal
import sys

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 -- -I leaves the script's folder out of the path
import landlock  # type: ignore[import-not-found]
import seccomp  # type: ignore[import-not-found]

_MAX_MESSAGE = 500


def main() -> None:
    """Shut this process in, and run the request."""
    read, write, close, leave = os.read, os.write, os.close, os._exit  # a program may replace those of the module
    token, report = map(int, sys.argv[1:])
    del sys.argv[1:]
    request = json.load(sys.stdin.buffer)
    _limit(request["limits"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if request["landlock"]:
        landlock.restrict(readable=request["readable"], writable=[os.getcwd()])  # noqa: PTH109
    seccomp.install()
    try:
        _run(request["program"], request["setup"], request["tests"])
        message = read(token, 64)
    except BaseException as error:  # noqa: BLE001 -- a program may raise anything
        close(token)
        message = _describe(error).encode(errors="replace")
    write(report, message)
    leave(0)  # without the program's exit handlers, threads and buffers


def _limit(limits: dict[str, int]) -> None:
    """Limit what this process may use, and end it at the latest with its parent."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    landlock.end_before_parent()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing too much raises an error instead


def _run(program: str, setup: str, tests: list[str]) -> None:
    """Run the program, the code that its tests need, and the tests, in one namespace."""
    # A program's `if __name__ == "__main__"` is for people who run it, and often reads from them.
    namespace: dict[str, object] = {"__name__": "__program__"}
    sys.path.pop(0)
    for name in ("landlock", "seccomp", "__main__"):
        sys.modules.pop(name, None)
    exec(compile(program, "<program>", "exec"), namespace)
    exec(compile(setup, "<setup>", "exec"), namespace)
    for number, test in enumerate(tests, start=1):
        tree = _Comparisons().visit(ast.parse(test, f"<test {number}>"))
        exec(
            compile(ast.fix_missing_locations(tree), f"<test {number}>", "exec"),
            namespace | {_Comparisons.NAME: _is_equal},
        )


class _Comparisons(ast.NodeTransformer):
    """Replaces ``a == b`` in tests by a call, so that an object that equals everything does not pass them."""

    NAME = "__is_equal__"

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
            return node
        function = ast.Name(id=self.NAME, ctx=ast.Load())
        return ast.copy_location(ast.Call(func=function, args=[node.left, node.comparators[0]], keywords=[]), node)


def _is_equal(left: object, right: object) -> object:
    """Return ``left == right``, but False if only the class of one of them says so, and the program defined it."""
    for mine, other in ((left, right), (right, left)):
        if type(mine).__module__ == "__program__" and type(mine) is not type(other):
            return False
    return left == right


def _describe(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        text = f"{kind}: {error}"
    except BaseException:  # noqa: BLE001 -- the program may have defined the exception
        text = kind
    return text[:_MAX_MESSAGE]


main()
