"""The trainer's state after a step, stored in files that cannot contain code: safetensors and JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from promptintern.engine.adapter import Adapter
from promptintern.engine.throughput import Activity
from promptintern.errors import RunFailed
from promptintern.storage.local import writing_files

_TENSORS = "state.safetensors"
_TRAJECTORY = "trajectory.json"


@dataclass(kw_only=True)
class Totals:
    """The sums over all steps of a trajectory."""

    rows: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    computed: int = 0


@dataclass(kw_only=True)
class Trajectory:
    """The record of a track's training. Every list has one entry per step."""

    loss: list[float] = field(default_factory=list)
    """The mean ``-ln p`` per answer token in every step."""
    grad_norm: list[float] = field(default_factory=list)
    """The Euclidean norm of the gradients before clipping, in every step."""
    learning_rate: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    loss_tokens: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    """The number of tokens that the model computed in every step."""
    seconds: float = 0.0
    """The training time in seconds, without evaluation, over all attempts and head restarts."""
    spent: dict[Activity, float] = field(default_factory=dict)
    """The number of seconds spent in each activity, summed over all steps."""

    def __post_init__(self) -> None:
        # Rates are reported at every step, and a stage may have 100,000 steps, so the sums are kept up to date.
        self.totals = Totals(
            rows=sum(self.rows),
            tokens=sum(self.tokens),
            loss_tokens=sum(self.loss_tokens),
            computed=sum(self.computed),
        )

    @property
    def steps(self) -> int:
        return len(self.loss)

    def add(
        self,
        *,
        loss: float,
        grad_norm: float,
        learning_rate: float,
        tokens: int,
        loss_tokens: int,
        rows: int,
        computed: int,
    ) -> None:
        """Append the record of a step."""
        self.loss.append(loss)
        self.grad_norm.append(grad_norm)
        self.learning_rate.append(learning_rate)
        self.tokens.append(tokens)
        self.loss_tokens.append(loss_tokens)
        self.rows.append(rows)
        self.computed.append(computed)
        self.totals.rows += rows
        self.totals.tokens += tokens
        self.totals.loss_tokens += loss_tokens
        self.totals.computed += computed

    def add_seconds(self, seconds: Mapping[Activity, float]) -> None:
        """Add ``seconds``, the time spent in each activity."""
        for activity, added in seconds.items():
            self.spent[activity] = self.spent.get(activity, 0.0) + added
            self.seconds += added

    def write(self, folder: Path) -> None:
        """Write ``trajectory.json`` into ``folder``."""
        (folder / _TRAJECTORY).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Trajectory":
        """Read ``trajectory.json`` from ``folder``."""
        return cls(**json.loads((folder / _TRAJECTORY).read_text()))


def new_optimizer(adapter: Adapter, *, weight_decay: float) -> torch.optim.AdamW:
    """Return an AdamW optimizer (Loshchilov & Hutter 2019, arXiv 1711.05101) for the flat buffer.

    The training loop sets the learning rate at every step.
    """
    return torch.optim.AdamW([adapter.flat], lr=0.0, weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8)


def optimizer_tensors(optimizer: torch.optim.AdamW, adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the moments ``[P]`` and the step count of AdamW; the result is empty before the first step."""
    state = optimizer.state.get(adapter.flat, {})
    return {name: value.detach() for name, value in state.items()}


def restore_optimizer(optimizer: torch.optim.AdamW, adapter: Adapter, tensors: dict[str, torch.Tensor]) -> None:
    """Restore the optimizer state that ``optimizer_tensors`` returned."""
    if tensors:
        device = adapter.flat.device
        optimizer.state[adapter.flat] = {
            # AdamW keeps its step count on the CPU.
            name: value.clone() if name == "step" else value.to(device, copy=True)
            for name, value in tensors.items()
        }


def snapshot(adapter: Adapter, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Return a CPU copy of everything that a step changes, so that the copy can be written while training continues."""
    tensors = {"parameters": adapter.flat.detach(), **_prefixed(optimizer_tensors(optimizer, adapter))}
    return {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _prefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"optimizer.{name}": value for name, value in tensors.items()}


def write_state(folder: Path, tensors: dict[str, torch.Tensor], *, buffer_digest: str) -> None:
    """Write the snapshot ``tensors`` to ``state.safetensors`` in ``folder``."""
    with writing_files(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / _TENSORS, metadata={"layout": buffer_digest})


def read_state(folder: Path, *, buffer_digest: str) -> dict[str, torch.Tensor]:
    """Read the snapshot in ``folder``.

    Raises:
        RunFailed: if the snapshot was written for an adapter whose flat buffer is laid out differently.
    """
    from safetensors import safe_open

    path = folder / _TENSORS
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get("layout")
    if stored != buffer_digest:
        raise RunFailed(f"{path} belongs to another adapter (its tensors differ); start the run in a new folder")
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def apply_state(tensors: dict[str, torch.Tensor], adapter: Adapter, optimizer: torch.optim.AdamW) -> None:
    """Restore the snapshot ``tensors`` into ``adapter`` and ``optimizer``."""
    adapter.load_flat(tensors["parameters"])
    restore_optimizer(
        optimizer,
        adapter,
        {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")},
    )
