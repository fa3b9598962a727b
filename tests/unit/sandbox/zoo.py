"""Hostile programs, each with the verdicts that contain it. tests/e2e runs them in a pod as well."""

from dataclasses import dataclass

from promptintern.sandbox.verdict import Verdict

RIGHT = "assert f(2) == 4"
"""A test that the function ``f`` passes if it squares its argument."""
SQUARE = "\ndef f(x): return x * x\n"
_STOPPED = frozenset({Verdict.TIMEOUT})
_DENIED = frozenset({Verdict.ERROR})
_WRONG = frozenset({Verdict.FAILED})


@dataclass(frozen=True, kw_only=True)
class Animal:
    """A hostile program, and what may become of it."""

    name: str
    program: str
    allowed: frozenset[Verdict]
    tests: tuple[str, ...] = (RIGHT,)

    @property
    def seconds(self) -> float:
        """The time limit: short for a program that never ends by itself, and otherwise long, for busy machines."""
        return 2.0 if Verdict.TIMEOUT in self.allowed else 60.0


def _denied(name: str, program: str) -> Animal:
    return Animal(name=name, program=program + SQUARE, allowed=_DENIED)


ZOO = (
    # Time and memory
    Animal(name="endless loop", program="while True: pass", allowed=_STOPPED),
    Animal(name="endless loop in C", program="sum(iter(int, 1))", allowed=_STOPPED),
    Animal(name="endless sleep", program="import time\nwhile True: time.sleep(60)", allowed=_STOPPED),
    Animal(name="endless loop in a test", program="def f(x):\n  while True: pass", allowed=_STOPPED),
    Animal(
        name="catastrophic regular expression",
        program="import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        allowed=_STOPPED,
    ),
    Animal(
        name="ignored signals",
        program="import signal\nfor n in (15, 24, 2, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        allowed=_STOPPED,
    ),
    Animal(
        name="endless text of an error",
        program=("class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E()"),
        allowed=_STOPPED,
    ),
    Animal(
        name="memory bomb",
        program="x = []\nwhile True: x.append(bytearray(10**7))",
        allowed=frozenset({Verdict.MEMORY}),
    ),
    Animal(name="one huge array", program="bytearray(10**12)", allowed=frozenset({Verdict.MEMORY})),
    Animal(
        name="huge power",
        program="10 ** 10 ** 10",
        allowed=frozenset({Verdict.MEMORY, Verdict.TIMEOUT, Verdict.ERROR}),
    ),
    Animal(
        name="recursion without a limit",
        program="import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x + 1)",
        allowed=frozenset({Verdict.KILLED, Verdict.MEMORY, Verdict.ERROR, Verdict.TIMEOUT}),
    ),
    Animal(
        name="thread bomb",
        program="import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        allowed=frozenset({Verdict.ERROR, Verdict.MEMORY, Verdict.TIMEOUT}),
    ),
    _denied("raised limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))"),
    # Processes
    _denied("fork bomb", "import os\nwhile True: os.fork()"),
    _denied("child left behind", "import os\nif os.fork() == 0:\n  os.setsid()\n  while True: pass"),
    _denied("shell", "import subprocess\nsubprocess.run(['sh', '-c', 'id'])"),
    _denied("another program", "import os\nos.execv('/bin/sh', ['sh'])"),
    _denied("multiprocessing", "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()"),
    _denied("kill the parent", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"),
    _denied("kill the group", "import os, signal\nos.killpg(0, signal.SIGKILL)"),
    _denied("kill everybody", "import os, signal\nos.kill(-1, signal.SIGKILL)"),
    _denied(
        "signals through the kernel",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    ),
    _denied(
        "trace the parent",
        "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) < 0: raise PermissionError",
    ),
    _denied("nice", "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)"),
    Animal(
        name="suicide",
        program="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        allowed=frozenset({Verdict.KILLED}),
    ),
    # Files
    _denied("password file", "open('/etc/passwd').read()"),
    _denied("process of the parent", "import os\nopen(f'/proc/{os.getppid()}/environ').read()"),
    _denied("own process", "open('/proc/self/environ').read()"),
    _denied("memory of the parent", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
    _denied("token of the pod", "import os\nos.listdir('/var/run/secrets/kubernetes.io/serviceaccount')"),
    _denied("job of the pod", "open('/etc/promptintern/job.json').read()"),
    _denied("folder of the parent", "import os\nos.listdir('/tmp')"),
    _denied("link out of its folder", "import os\nos.symlink('/etc/passwd', 'x')\nopen('x').read()"),
    _denied("hard link out of its folder", "import os\nos.link('/etc/passwd', 'x')\nopen('x').read()"),
    _denied("file beside its folder", "open('../evil', 'w').write('x')"),
    _denied("write to a library", "import os\nopen(os.__file__, 'a').write('x')"),
    _denied("code of the trainer", "import promptintern"),
    _denied("one large file", "file = open('x', 'wb')\nwhile True: file.write(bytes(10**6))"),
    Animal(
        name="many files",
        program="n = 0\nwhile True:\n  open(f'x{n}', 'wb').write(bytes(10**6))\n  n += 1",
        allowed=frozenset({Verdict.OUTPUT}),
    ),
    _denied(
        "mount", "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, 0) < 0: raise PermissionError"
    ),
    _denied("another root", "import os\nos.chroot('.')"),
    # Network
    _denied("connection", "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)"),
    _denied(
        "packets", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"
    ),
    _denied("local socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/x.sock')"),
    _denied("web page", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1')"),
    # Output and input
    Animal(name="output flood", program="while True: print('x' * 10**4)", allowed=frozenset({Verdict.OUTPUT})),
    Animal(
        name="flood of errors",
        program="import os\nwhile True: os.write(2, b'x' * 10**4)",
        allowed=frozenset({Verdict.OUTPUT}),
    ),
    Animal(name="huge error", program="raise ValueError('x' * 10**8)", allowed=_DENIED),
    Animal(name="reading its input", program="input()", allowed=_DENIED),
    # Passing without the right answer
    Animal(name="exit", program="import sys\nsys.exit(0)", allowed=frozenset({Verdict.EXITED})),
    Animal(name="hard exit", program="import os\nos._exit(0)", allowed=frozenset({Verdict.EXITED})),
    Animal(name="exit in a test", program="def f(x): raise SystemExit(0)", allowed=frozenset({Verdict.EXITED})),
    Animal(
        name="patched assertion",
        program=(
            "import builtins\nbuiltins.AssertionError = type('E', (), {})\nclass AssertionError: pass\n"
            "def f(x): return 0"
        ),
        allowed=_WRONG,
    ),
    Animal(
        name="equal to everything",
        program="class Any:\n  def __eq__(self, other): return True\ndef f(x): return Any()",
        allowed=_WRONG,
    ),
    Animal(
        name="number equal to everything",
        program="class Any(int):\n  def __eq__(self, other): return True\ndef f(x): return Any(0)",
        allowed=_WRONG,
    ),
    Animal(name="claim", program="print('Passed')\ndef f(x): return 0", allowed=_WRONG),
    Animal(
        name="own reports",
        program=(
            "import os\nfor n in range(3, 64):\n  try: os.write(n, b'0' * 32)\n  except OSError: pass\n"
            "def f(x): return 0"
        ),
        allowed=frozenset({Verdict.FAILED, Verdict.ERROR}),
    ),
    Animal(
        name="variables of the harness",
        program=(
            "import sys, re, os, gc\n"
            "texts = [repr(o) for o in gc.get_objects() if isinstance(o, dict)]\n"
            "frame = sys._getframe()\n"
            "while frame: texts.append(repr(frame.f_locals)); frame = frame.f_back\n"
            "found = set(re.findall('[0-9a-f]{32}', ''.join(texts)))\n"
            "for n in range(3, 16):\n"
            "  for token in found:\n"
            "    try: os.write(n, token.encode())\n"
            "    except OSError: pass\n"
            "os._exit(0)"
        ),
        allowed=frozenset({Verdict.EXITED, Verdict.ERROR, Verdict.OUTPUT, Verdict.TIMEOUT}),
    ),
    # Text that is no program
    Animal(name="no Python", program="This is not Python.", allowed=_DENIED),
    Animal(name="null byte", program="x = 1\0", allowed=_DENIED),
    Animal(name="surrogate", program="x = '\udcff'", allowed=_DENIED),
    Animal(
        name="deep nesting",
        program="(" * 100_000,
        allowed=frozenset({Verdict.ERROR, Verdict.MEMORY, Verdict.KILLED}),
    ),
    Animal(name="escapes in an error", program="raise ValueError('\\x1b[2J<script>')", allowed=_DENIED),
)
HARMLESS = (
    Animal(
        name="thread left behind",
        program=("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()" + SQUARE),
        allowed=frozenset({Verdict.PASSED}),
    ),
    Animal(
        name="exit handler that never ends",
        program="import atexit, time\natexit.register(time.sleep, 60)" + SQUARE,
        allowed=frozenset({Verdict.PASSED}),
    ),
    Animal(
        name="folder that nobody may enter",
        program="import os\nos.makedirs('a/b/c')\nopen('a/b/c/d', 'w').close()\nos.chmod('a/b', 0)" + SQUARE,
        allowed=frozenset({Verdict.PASSED}),
    ),
    Animal(
        name="its own files",
        program="open('x', 'w').write('4')\ndef f(x): return int(open('x').read())",
        allowed=frozenset({Verdict.PASSED}),
    ),
    Animal(
        name="much of the standard library",
        program=(
            "import re, math, collections, itertools, heapq, cmath, bisect, operator, datetime, array, json, decimal\n"
            "import fractions, statistics, random, string, functools, copy, typing, dataclasses, enum, hashlib\n"
            "import zoneinfo\n"
            "import asyncio, sqlite3, struct, textwrap, unicodedata, calendar, time, pathlib, tempfile, csv, io, uuid\n"
            "datetime.datetime.strptime('2026-01-02', '%Y-%m-%d')\nhashlib.sha256(b'x')\n"
            "zoneinfo.ZoneInfo('UTC')\nasyncio.run(asyncio.sleep(0))" + SQUARE
        ),
        allowed=frozenset({Verdict.PASSED}),
    ),
    Animal(
        name="main block", program="if __name__ == '__main__': input()" + SQUARE, allowed=frozenset({Verdict.PASSED})
    ),
)
"""Programs that look bad, or need much, but do nothing wrong."""
