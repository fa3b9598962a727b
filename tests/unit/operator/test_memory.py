"""Memory of deleted jobs is returned to the operating system."""

import os
import platform
import subprocess
import sys

import pytest

# Jobs like those that Kopf delivers, interleaved with objects that stay, as in the rest of the operator.
STORY = """
import json, os
from promptintern_operator.memory import trim
from promptintern_operator.intake import job_view
from promptintern_operator.queue import Key
from promptintern_operator.cache import Cache

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

spec = [{"field": os.urandom(9).hex()} for _ in range(1000)]
text = json.dumps({"metadata": {"uid": "x", "resourceVersion": "1"}, "spec": spec}).encode()
cache, stays, before = Cache(), [], resident()
for number in range(1000):
    cache.jobs[Key("team-a", str(number))] = job_view(text)
    stays.append({number: str(number)})
full = resident()
cache.jobs.clear()
trim()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not asked")
def test_memory_is_returned_when_jobs_are_gone() -> None:
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    output = subprocess.run([sys.executable, "-c", STORY], env=environment, capture_output=True, text=True, check=True)
    taken, left = map(float, output.stdout.split())
    assert taken > 5
    assert left < taken / 5
