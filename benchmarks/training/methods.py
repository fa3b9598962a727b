"""Trains several optimizer steps with a method, and measures peak memory and each step's time, loss and gradient norm.

A step has the same rows with all methods except packed TRL, and the loss is the mean over the step's answer tokens.
"""

import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.material import Row, Shape, build_model, read_stage

LEARNING_RATE = 2e-4


@dataclass(kw_only=True)
class Measured:
    """The measurements of one process, which trained several optimizer steps with one method.

    Attributes:
        seconds: The time in seconds of each step after the first. In the first step, libraries warm up.
        losses: The loss of each step.
        norms: The gradient norm of each step, before clipping.
        packs: The mean number of packs in a step of our engine, or 0 for other methods.
        lanes: The largest number of packs that our engine computes concurrently, or 1 for other methods.
        mfu: The model FLOPs utilization of our engine in the steps after the first, or None if the device's peak FLOPs
            are not known.
        peak_mib: The peak memory in MiB: resident memory on a CPU, memory that PyTorch allocated on a GPU.
    """

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    packs: float = 0.0
    lanes: int = 1
    mfu: float | None = None
    peak_mib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training with one method, which one process performs and measures.

    Attributes:
        method: ``ours``, ``hf`` (Trainer and PEFT, padded), ``trl`` (SFTTrainer, padded) or ``trl-packed`` (bfd).
        rows: The rows of all steps. For ``trl-packed``, there are rows for an extra step, because the last step is
            incomplete.
        rows_per_step: The number of rows in an optimizer step.
        size: The number of rows in a padded batch, or of tokens in a pack.
        tokenizer: The folder of the tokenizer.
    """

    method: str
    rows: list[Row]
    rows_per_step: int
    size: int
    shape: Shape
    tokenizer: Path

    @classmethod
    def of_stage(
        cls, material: Path, stage: int, *, method: str, rows: int, size: int, shape: Shape, steps: int = 2
    ) -> "Work":
        """Return the work of training on the first ``steps * rows`` rows of a stage, ``rows`` rows per step."""
        return cls(
            method=method,
            rows=read_stage(material, stage)[: rows * steps],
            rows_per_step=rows,
            size=size,
            shape=shape,
            tokenizer=material / "tokenizer",
        )


def run(work: Work) -> Measured:
    """Train as ``work`` describes, and return the measurements. The time of the first step is left out."""
    methods = {"ours": _ours, "hf": _hf, "trl": _trl, "trl-packed": _trl}
    if work.shape.device != "cpu":
        _wait_for_memory()
    found = methods[work.method](work)
    assert len(found.seconds) > 1, "a step that counts needs more rows"
    return replace(found, seconds=found.seconds[1:], peak_mib=_peak_mib(work.shape))


def _ours(work: Work) -> Measured:
    return train_ours(work, lambda _done: None)


def train_ours(work: Work, after_step: Callable[[int], None]) -> Measured:
    """Train with our engine, as a run trains a stage, and return the measurements.

    Args:
        after_step: A function that is called after each step with the number of steps done.
    """
    rows, shape = work.rows, work.shape
    from promptintern.engine.adapter import attach_lora
    from promptintern.engine.checkpoint import Trajectory, new_optimizer
    from promptintern.engine.lanes import lane_count, lane_threads, pin_thread_settings
    from promptintern.engine.packing.layout import PackLayout, probe_layouts
    from promptintern.engine.train import LrSpan, TrackTask, train_track
    from promptintern.prompt.encode import Encoded
    from promptintern_api.training import Lora, LrSchedule, TrainingSpec

    device = torch.device(shape.device)
    pin_thread_settings(device)
    adapter = attach_lora(build_model(shape), Lora(r=shape.lora_r, alpha=2 * shape.lora_r), seed=0)
    layouts = probe_layouts(adapter, vocab_size=1000, dropout=0.0, device=device)
    layout = layouts.for_rows(max(len(p) + len(a) for p, a in rows))
    if layouts.reason:
        print(f"layout: {layout.value}, since {layouts.reason}", file=sys.stderr)
    encoded = [Encoded(prompt_ids=memoryview(array("i", p)), answer_ids=memoryview(array("i", a))) for p, a in rows]
    began = time.perf_counter()
    threads = lane_threads(adapter.model, device) if layout is PackLayout.PREFIX_TREE else 1
    steps = _plan(work, lane_count(threads, tokens_per_pack=work.size), pack=layout.is_packed)
    planning = (time.perf_counter() - began) / len(steps)
    optimizer = new_optimizer(adapter, weight_decay=0.0)
    training = TrainingSpec(learning_rate=LEARNING_RATE, warmup_ratio=0.0, lr_schedule=LrSchedule.CONSTANT)
    trajectory, seconds, last = Trajectory(), [], time.perf_counter()

    def note(trajectory: Trajectory) -> None:
        nonlocal last
        _synchronize(shape)
        seconds.append(time.perf_counter() - last + planning)
        after_step(trajectory.steps)
        last = time.perf_counter()

    train_track(
        adapter,
        optimizer,
        TrackTask(
            name="bench", seed=(0,), rows=encoded, steps=steps, layout=layout, lr_span=LrSpan(first=0, total=len(steps))
        ),
        training=training,
        trajectory=trajectory,
        device=device,
        stop_requested=lambda: False,
        after_step=note,
    )
    return Measured(
        seconds=seconds,
        losses=trajectory.loss,
        norms=trajectory.grad_norm,
        packs=sum(len(packs) for step in steps for packs in step.workers) / len(steps),
        lanes=max(step.concurrent_packs(0) for step in steps),
        mfu=_mfu(adapter, trajectory, sum(seconds[1:]), shape),
    )


def _plan(work: Work, lanes: int, *, pack: bool) -> list[Any]:
    """Return the steps of our engine, with the same rows as in the other methods, so that losses can be compared."""
    from promptintern.engine import distributed
    from promptintern.engine.attention.backends import min_node_savings_on, min_prefix_savings_on
    from promptintern.engine.attention.prefix_tree import Prefixes
    from promptintern.engine.packing.planning import Length, plan_steps

    rows, steps, device = work.rows, [], torch.device(work.shape.device)
    for start in range(0, len(rows), work.rows_per_step):
        part = rows[start : start + work.rows_per_step]
        (step,) = plan_steps(
            [Length(prompt=len(prompt), answer=len(answer)) for prompt, answer in part],
            seed=(0,),
            epochs=1,
            tokens_per_batch=2**40,
            rows_per_batch=None,
            tokens_per_pack=work.size,
            pack=pack,
            world_size=distributed.world_size(),
            lanes=lanes,
            prefixes=Prefixes([prompt for prompt, _ in part]),
            min_node_savings=min_node_savings_on(device),
            min_prefix_savings=min_prefix_savings_on(device),
        )
        steps.append(replace(step, workers=tuple(tuple(_moved(one, start) for one in packs) for packs in step.workers)))
    return steps


def _moved(pack: Any, start: int) -> Any:
    return replace(pack, rows=tuple(row + start for row in pack.rows))


def _mfu(adapter: Any, trajectory: Any, seconds: float, shape: Shape) -> float | None:
    from promptintern.engine.throughput import device_peak, parameter_counts, training_flops

    peak = device_peak(torch.device(shape.device), getattr(torch, shape.dtype))
    computed, loss_tokens = sum(trajectory.computed[1:]), sum(trajectory.loss_tokens[1:])
    flops = training_flops(parameter_counts(adapter), computed=computed, loss_tokens=loss_tokens)
    return flops / seconds / peak if peak and seconds else None


def _hf(work: Work) -> Measured:
    rows, shape = work.rows, work.shape
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    dataset = Dataset.from_list(
        [{"input_ids": p + a, "attention_mask": [1] * len(p + a), "labels": [-100] * len(p) + a} for p, a in rows]
    )
    watch = _watch(shape)
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=_peft_model(shape),
            args=TrainingArguments(**_arguments(folder, shape, work.rows_per_step, work.size)),
            train_dataset=dataset,
            data_collator=DataCollatorForSeq2Seq(_tokenizer(work), padding=True),
            callbacks=[watch],
        )
        trainer.train()
    return Measured(seconds=watch.seconds, losses=watch.losses, norms=watch.norms)


def _trl(work: Work) -> Measured:
    rows, shape = work.rows, work.shape
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    packed = work.method == "trl-packed"
    assert not packed or max(len(p) + len(a) for p, a in rows) <= work.size, "bfd would cut rows"
    dataset = Dataset.from_list([{"input_ids": p + a, "completion_mask": [0] * len(p) + [1] * len(a)} for p, a in rows])
    watch = _watch(shape)
    # TRL counts a pack as one row, so a step takes the number of packs that hold ``rows_per_step`` rows on average.
    mean = sum(len(p) + len(a) for p, a in rows) / len(rows)
    per_step = max(1, round(work.rows_per_step * mean / work.size)) if packed else work.rows_per_step
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=_peft_model(shape),
            args=SFTConfig(
                **_arguments(folder, shape, per_step, 1 if packed else work.size),
                packing=packed,
                max_length=work.size if packed else None,
                completion_only_loss=True,
                pad_token="</s>",
                eos_token="</s>",
            ),
            train_dataset=dataset,
            processing_class=_tokenizer(work),
            callbacks=[watch],
        )
        trainer.train()
    found = Measured(seconds=watch.seconds, losses=watch.losses, norms=watch.norms)
    if not packed:
        return found
    # Packs are not entirely full, and the last step may have fewer packs than the others.
    steps = list(zip(watch.seconds, watch.tokens, strict=True))[:-1]
    found.seconds = [seconds * work.rows_per_step * mean / tokens for seconds, tokens in steps]
    return found


def _arguments(folder: str, shape: Shape, per_step: int, size: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": max(1, per_step // size),
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": shape.device == "cpu",
        "bf16": shape.dtype == "bfloat16",  # the default of TRL; lets tensor cores compute LoRA's products
        "gradient_checkpointing": False,
        "dataloader_pin_memory": shape.device != "cpu",
        "seed": 0,
    }


def _peft_model(shape: Shape) -> Any:
    from peft import LoraConfig, get_peft_model

    model = build_model(shape)
    torch.manual_seed(0)
    return get_peft_model(
        model,
        LoraConfig(
            r=shape.lora_r, lora_alpha=2 * shape.lora_r, target_modules="all-linear", task_type="CAUSAL_LM", bias="none"
        ),
    )


def _tokenizer(work: Work) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work.tokenizer)


def _watch(shape: Shape) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []
            self.norms: list[float] = []
            self.tokens: list[float] = []
            self._began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _synchronize(shape)
            self.seconds.append(time.perf_counter() - self._began)

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))
                self.norms.append(float(logs["grad_norm"]))
                self.tokens.append(float(logs.get("num_tokens", 0)) - sum(self.tokens))  # TRL logs a running total

    return Watch()


def _synchronize(shape: Shape) -> None:
    if shape.device != "cpu":
        torch.cuda.synchronize()


def _wait_for_memory() -> None:
    """Wait until the GPU's driver has freed the memory of the previous process, which takes several seconds."""
    for _ in range(60):
        free, total = torch.cuda.mem_get_info()
        if total - free < 2 * 2**30:  # only CUDA contexts are left
            return
        time.sleep(1)
    raise RuntimeError(f"another process holds {(total - free) / 2**30:.0f} GiB of the GPU's memory")


def _peak_mib(shape: Shape) -> float:
    if shape.device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
