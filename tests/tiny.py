"""Tiny random models of several architectures, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 97

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt_neox", "mixtral")


THINK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of a base model whose texts end with another token than its turns."""
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tiny_config(architecture: str) -> Any:
    """Return a configuration, with grouped heads if the architecture has them, and a sliding window for Mistral."""
    from transformers import (
        GPTNeoXConfig,
        LlamaConfig,
        MambaConfig,
        MistralConfig,
        MixtralConfig,
        Qwen2Config,
    )

    grouped = {**COMMON, "num_key_value_heads": 2}
    match architecture:
        case "llama":
            return LlamaConfig(**grouped)
        case "mistral":
            return MistralConfig(**grouped, sliding_window=6)
        case "qwen2":
            return Qwen2Config(**grouped)
        case "gpt_neox":
            return GPTNeoXConfig(**COMMON)
        case "mixtral":
            return MixtralConfig(**grouped, num_local_experts=4)
        case "mamba":
            return MambaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
    raise ValueError(architecture)


def tiny_model(architecture: str, *, seed: int = 0) -> Any:
    """Return a frozen random causal language model."""
    return random_model(tiny_config(architecture), seed=seed)


def random_model(config: Any, *, seed: int = 0) -> Any:
    """Return a frozen random causal language model of ``config``."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    # With the usual initial weights, all logits are nearly equal; larger weights make mistakes visible.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model.requires_grad_(requires_grad=False)


def write_tiny_model(
    folder: Path, architecture: str = "llama", *, chat_template: str | None = None, added: Sequence[str] = ()
) -> Path:
    """Save a random model with a byte-level tokenizer in ``folder``, and return the folder.

    Args:
        added: Texts that are added to the tokenizer as tokens of their own.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = chat_template
    config = tiny_config(architecture)
    config.vocab_size = len(tokenizer)
    config.max_position_embeddings = 1024
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def set_generation_defaults(model: Path) -> None:
    """Give the model in the folder ``model`` settings with which it would generate other answers."""
    path = model / "generation_config.json"
    settings = {"repetition_penalty": 3.0, "do_sample": True, "temperature": 5.0, "suppress_tokens": [35]}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def append_end_token(model: Path) -> None:
    """Make the tokenizer in the folder ``model`` add a token before and after every text."""
    path = model / "tokenizer.json"
    tokens = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>")]
    specials = {
        "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
    }
    single = [tokens[0], {"Sequence": {"id": "A", "type_id": 0}}, tokens[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    written = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": written}))


def write_rows(path: Path, count: int, *, start: int = 0) -> Path:
    """Write JSONL rows of an easy task, and return their path."""
    lines = [
        json.dumps({"query": f"add {n} to {n % 7}", "answer": f"({n} + {n % 7})"}) for n in range(start, start + count)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def tiny_job(folder: Path, *, rows: int = 12, **spec: Any) -> dict[str, Any]:
    """Return a job with a tiny model and few rows in ``folder``. ``spec`` replaces parts of its spec."""
    model = folder / "model"
    if not model.exists():
        write_tiny_model(model)
    train, held_out = write_rows(folder / "train.jsonl", rows), write_rows(folder / "eval.jsonl", 4, start=1000)
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"uri": f"file://{model}", "dtype": "float32"},
            "data": {"train": {"uri": f"file://{train}"}, "eval": {"uri": f"file://{held_out}"}},
            "prompt": {
                "template": "Write the sum as code.\n{examples}Question: {query}\nCode:",
                "exampleTemplate": "Question: {query}\nCode:{answer}\n",
                "protect": ["\nCode:"],
            },
            "schedule": {"stages": 3, "shots": 2},
            "training": {"lora": {"r": 4, "alpha": 8}, "learningRate": 0.01, "rowsPerBatch": 4, "tokensPerBatch": 1024},
            "evaluation": {"maxNewTokens": 8, "stageRows": 4, "latencyQueries": 2, "gate": {"onFail": "Continue"}},
            "checkpoint": {"everySeconds": 1},
        }
        | spec,
    }
