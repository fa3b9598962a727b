"""The process that holds a user's scorer. `scorer.py` starts it, and it shuts itself in before the scorer is loaded.

    python -I -S -B scorer_child.py REPORT_FD

It may import only the standard library and the modules beside it. The first line of its input holds the settings. For
an entry point, each further line holds a row and a random name of it, and each answer is a line of the report:
``ready`` once the function is loaded, then the name of each row with its number, or with ``error:`` and a message. A
command replaces this process, and writes the numbers to its standard output.
"""

import json
import math
import os
import resource
import sys

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 -- -I leaves the script's folder out of the path
import landlock  # type: ignore[import-not-found]
import seccomp  # type: ignore[import-not-found]

_MAX_MESSAGE = 300


def main() -> None:
    """Shut this process in, and score rows until the input ends."""
    report = int(sys.argv[1])
    settings = json.loads(_first_line())
    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    landlock.end_before_parent()
    if settings["landlock"]:
        landlock.restrict(readable=settings["readable"], writable=[os.getcwd()])  # noqa: PTH109
    command = settings["command"]
    seccomp.install(may_replace_itself=command is not None)
    if command is not None:
        os.close(report)
        try:
            os.execve(command[0], command, settings["environment"])
        except OSError as error:
            os.write(1, f"error: {command[0]} cannot be started: {error.strerror}\n".encode())
            os._exit(1)
    sys.path[:] = settings["path"]
    for name in ("landlock", "seccomp"):
        sys.modules.pop(name, None)
    with os.fdopen(report, "wb", buffering=0) as answers, os.fdopen(0, "rb") as rows:
        try:
            module, _, name = settings["entryPoint"].partition(":")
            __import__(module)
            function = getattr(sys.modules[module], name)
        except BaseException as error:  # noqa: BLE001 -- a user's module may raise anything
            answers.write(f"error: {_describe(error)}\n".encode(errors="replace"))
            return
        answers.write(b"ready\n")
        for line in rows:
            request = json.loads(line)
            answers.write(f"{request['id']} {_score(function, request['row'])}\n".encode(errors="replace"))


def _first_line() -> bytes:
    """Return the first line of the input, read byte by byte, so that a command finds the rest."""
    line = bytearray()
    while (byte := os.read(0, 1)) and byte != b"\n":
        line += byte
    return bytes(line)


def _score(function: object, row: dict[str, object]) -> str:
    try:
        number = float(function(**row))  # type: ignore[operator]
    except BaseException as error:  # noqa: BLE001 -- a user's function may raise anything
        return f"error: {_describe(error)}"
    return repr(number) if math.isfinite(number) else f"error: the number is {number}"


def _describe(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 -- the user may have defined the exception
        text = type(error).__name__
    return " ".join(text.split())[:_MAX_MESSAGE]


main()
