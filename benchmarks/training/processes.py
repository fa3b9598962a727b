"""A process of its own for every measurement, forked from one that has imported the libraries and done nothing else."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_LIBRARIES = ["torch", "transformers", "peft", "trl.trainer.sft_trainer", "datasets", "promptintern.engine.train"]


def in_new_process(measure: Callable[..., T], *arguments: Any) -> T:
    """What ``measure`` returns there. What libraries print goes to stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_quietly, measure, *arguments).result()


def _quietly(measure: Callable[..., T], *arguments: Any) -> T:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with contextlib.redirect_stdout(sys.stderr):
        return measure(*arguments)


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
