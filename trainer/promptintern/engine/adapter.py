"""The adapter: LoRA layers from PEFT, with all parameters in one flat buffer and all gradients in another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from promptintern_api.training import Lora
from safetensors.torch import load_file, save_file
from torch import nn

from promptintern.engine.adapter_config import CONFIG
from promptintern.errors import RunFailed, UserError
from promptintern.storage.local import writing_files

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What PEFT puts before the names of the base model's modules."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The place of one tensor in the flat buffer."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Adapter:
    """A base model with LoRA, whose trainable parameters are views into ``flat``.

    The flat buffer holds the parameters in a fixed order (sorted by name). Because of the buffer, the all-reduce,
    clipping, the optimizer and a checkpoint each handle a single tensor.

    Attributes:
        model: The PEFT model.
        flat: All LoRA parameters, ``[P]`` float32; ``flat.grad`` accumulates the gradients of all parameters.
        slots: The places of the tensors, in the order of the flat buffer.
        initial: The values of the parameters right after creation, ``[P]`` float32.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        trainable = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
        self.slots: tuple[Slot, ...] = _buffer_slots(trainable)
        size = self.slots[-1].stop
        self.flat = nn.Parameter(torch.empty(size, dtype=torch.float32, device=trainable[0][1].device))
        self.flat.grad = torch.zeros_like(self.flat)
        with torch.no_grad():
            views, grads = self.views(self.flat), self.views(self.flat.grad)
            for view, grad, (_, parameter) in zip(views, grads, trainable, strict=True):
                view.copy_(parameter)
                parameter.data = view.detach()
                parameter.grad = grad
        self._parameters = [parameter for _, parameter in trainable]
        self.initial = self.flat.detach().clone()

    @property
    def grad(self) -> torch.Tensor:
        """The gradients of all parameters, ``[P]``; the ``.grad`` of each parameter is a view into this tensor."""
        assert self.flat.grad is not None
        return self.flat.grad

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return, for every parameter, a view of its part of ``flat`` ``[P]``."""
        return [flat[slot.start : slot.stop].view(slot.shape) for slot in self.slots]

    def add_gradients(self, loss: torch.Tensor, into: torch.Tensor) -> None:
        """Add the gradients of ``loss`` to ``into`` ``[P]``.

        Several threads may call this method at the same time, each with its own ``into``. In contrast,
        ``loss.backward()`` in several threads would add to the same ``grad``.
        """
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        pairs = [(view, grad) for view, grad in zip(self.views(into), gradients, strict=True) if grad is not None]
        torch._foreach_add_([view for view, _ in pairs], [grad for _, grad in pairs])

    def grad_norm(self) -> float:
        """Return the Euclidean norm of all gradients together.

        The squares are summed in float64, because PyTorch's float32 sum of 22 million numbers on a CPU has an error of
        0.1%.
        """
        return float(torch.linalg.vector_norm(self.grad, dtype=torch.float64))

    def load_flat(self, values: torch.Tensor) -> None:
        """Set all parameters to ``values`` ``[P]``."""
        with torch.no_grad():
            self.flat.copy_(values)

    def save(self, folder: Path, *, base_name: str, revision: str | None = None) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` in the form that stock PEFT and vLLM read."""
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
        with writing_files(folder):
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = base_name
        config.revision = revision
        config.inference_mode = True
        config.save_pretrained(folder)
        # PEFT turns some lists into sets. They are sorted here so that the same run writes the same file.
        path = folder / CONFIG
        written = json.loads(path.read_text())
        for name in ("target_modules", "target_parameters"):
            if isinstance(written.get(name), list):
                written[name] = sorted(written[name])
        path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Load the parameters that ``save`` wrote to ``folder``.

        Raises:
            RunFailed: if the file does not hold exactly the tensors of this adapter.
        """
        tensors = load_file(folder / WEIGHTS)
        ours = {_stored_name(slot): slot for slot in self.slots}
        if set(ours) != set(tensors):
            raise RunFailed(
                f"{folder / WEIGHTS} holds other tensors than this job's adapter; was training.lora changed since then?"
            )
        with torch.no_grad():
            for name, slot in ours.items():
                self.flat[slot.start : slot.stop].copy_(tensors[name].reshape(-1))

    @property
    def highest_rank(self) -> int:
        """The highest rank of any layer."""
        config = self.model.peft_config["default"]
        ranks: list[int] = [config.r, *(config.rank_pattern or {}).values()]
        return max(ranks)

    @property
    def is_on_head(self) -> bool:
        """Whether the output head has an adapter."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return isinstance(self.model.get_output_embeddings(), BaseTunerLayer)

    def buffer_digest(self) -> str:
        """Return a digest of how the flat buffer is laid out; a checkpoint with another digest is refused."""
        import hashlib

        text = ";".join(f"{s.name}:{s.shape}" for s in self.slots)
        return hashlib.sha256(text.encode()).hexdigest()


def _stored_name(slot: Slot) -> str:
    return slot.name.replace(".default.", ".")


def _buffer_slots(trainable: list[tuple[str, nn.Parameter]]) -> tuple[Slot, ...]:
    slots, start = [], 0
    for name, parameter in trainable:
        if parameter.dtype is not torch.float32:
            raise RunFailed(
                f"LoRA parameter {name} is {parameter.dtype}, not float32; this is a defect, please report it"
            )
        slots.append(Slot(name=name, shape=tuple(parameter.shape), start=start, stop=start + parameter.numel()))
        start += parameter.numel()
    return tuple(slots)


def attach_lora(model: nn.Module, lora: Lora, *, seed: int) -> Adapter:
    """Attach fresh LoRA layers, initialized from ``seed`` alone, to ``model``, and return the adapter.

    In a composite model, only the language model gets LoRA layers.

    Raises:
        UserError: if no module has one of the names in ``training.lora.targetModules``, if one of them is no linear
            layer, or if one of them shares its weights with another module.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    names = [name.strip() for name in lora.target_modules.split(",") if name.strip()]
    excluded = _excluded_modules(model)
    torch.manual_seed(seed)
    try:
        wrapped = get_peft_model(
            model,
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules="all-linear" if names == ["all-linear"] else names,
                exclude_modules=excluded or None,
                task_type="CAUSAL_LM",
                bias="none",
            ),
        )
    except ValueError as error:
        # PEFT cannot apply dropout to weights that are not modules (the experts of a mixture, for example).
        field = "dropout" if "lora_dropout" in str(error) else "targetModules"
        raise UserError.at(f"spec.training.lora.{field}", str(error).splitlines()[0]) from None
    _check_names(wrapped, names, excluded)
    _check_shared_weights(wrapped)
    adapter = Adapter(wrapped)
    stored = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    other = sorted(slot.name for slot in adapter.slots if _stored_name(slot) not in stored)
    if other:
        module = other[0].removeprefix(_PREFIX).partition(".lora_")[0]
        raise UserError.at(
            "spec.training.lora.targetModules", f"names {module}, which is no linear layer; leave it out"
        )
    return adapter


def _excluded_modules(model: nn.Module) -> list[str]:
    """Return the names of the linear layers of ``model`` that get no LoRA layers, whatever their names.

    These are the layers outside the language model of a composite model, and modules that are linear layers by their
    class only, such as a router that returns a tuple.
    """
    from transformers.pytorch_utils import Conv1D

    config: Any = model.config
    composite: Any = model
    inside = set(model.modules())
    if config.get_text_config() is not config and composite.get_decoder() is not None:
        inside = {*composite.get_decoder().modules(), composite.get_output_embeddings()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not (module in inside and _is_linear(module))
    ]


@torch.no_grad()
def _is_linear(module: Any) -> bool:
    """Return whether ``module``, an instance of ``nn.Linear`` or ``Conv1D``, maps a vector to a vector, as these do."""
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return True
    try:
        output = module(module.weight.new_zeros(1, module.in_features))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, module.out_features)


def _check_names(wrapped: Any, names: list[str], excluded: list[str]) -> None:
    """Refuse names that no module has, and write the modules that have LoRA layers into PEFT's configuration.

    Raises:
        UserError: at ``training.lora.targetModules``, if there is such a name.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = wrapped.peft_config["default"]
    adapted = {name.removeprefix(_PREFIX) for name, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    for name in names:
        # PEFT replaces the names of experts whose weights transformers keeps in one parameter.
        if name in config.target_modules and not any(f".{module}".endswith(f".{name}") for module in adapted):
            raise UserError.at(
                "spec.training.lora.targetModules",
                f"names {name}, which is no linear layer of the language model; give names such as "
                f"{', '.join(sorted({module.rpartition('.')[2] for module in adapted})[:4])}, or all-linear alone",
            )
    if excluded:
        config.target_modules, config.exclude_modules = adapted, None


def _check_shared_weights(model: nn.Module) -> None:
    """Refuse LoRA on a layer whose weights are those of another layer, such as an output layer tied to the embeddings.

    The adapter could not be merged: the other layer would get the sum, too, or the merged model would lose it.

    Raises:
        UserError: at ``training.lora.targetModules``, if there is such a layer.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.removeprefix(_PREFIX))
    for sharing in names.values():
        adapted = next((name for name in sharing if ".base_layer." in f".{name}"), None)
        if adapted is not None and len(sharing) > 1:
            other = next(name for name in sharing if name != adapted)
            raise UserError.at(
                "spec.training.lora.targetModules",
                f"names {adapted.partition('.base_layer')[0]}, whose weights are also those of "
                f"{other.rpartition('.')[0]}, so an adapter on it could not be merged; leave it out",
            )
