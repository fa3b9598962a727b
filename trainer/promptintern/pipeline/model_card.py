"""The model card of an adapter: how to load it, how to prompt it, and where it comes from.

Everything that a reader may copy from the card is generated from the facts of the run, and a test executes it.
"""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from promptintern.answering.answers import end_tokens
from promptintern.answering.vllm.environment import RANKS
from promptintern.pipeline.session import Session
from promptintern.pipeline.training import base_model_name
from promptintern.sample import MODEL_URI
from promptintern.stage_record import StageRecord

_DIGEST_DIGITS = 12
_PLACEHOLDER = "FOLDER_OF_THE_BASE_MODEL"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """How code and commands name the base model."""

    name: str
    """A name on a hub, a folder, or a placeholder for a folder."""
    revision: str | None = None
    where: str | None = None
    """A sentence that says where the base model is, unless it is on a hub."""

    @property
    def is_on_hub(self) -> bool:
        """Whether the base model is on a hub, where its name alone finds it."""
        return self.where is None


def base_model(uri: str) -> BaseModel:
    """Return how code and commands name the base model at ``uri``."""
    name, revision = base_model_name(uri)
    copy = f"write the path of that folder in place of `{_PLACEHOLDER}`."
    if uri.startswith("hf://"):
        return BaseModel(name=name, revision=revision)
    if uri.startswith("file://"):
        where = f"The base model was in the folder `{name}` where the adapter was trained. Elsewhere, change this path."
        return BaseModel(name=name, where=where)
    if uri == MODEL_URI:
        find = "python -c 'from promptintern.sample import *; print(sample_model_path(MODEL_URI))'"
        where = f"The base model is part of the Python package promptintern, and `{find}` prints its folder; {copy}"
    else:
        where = f"The base model is stored under `{name}`. Copy it to a folder, and {copy}"
    return BaseModel(name=_PLACEHOLDER, where=where)


def model_card(session: Session, record: StageRecord, *, lineage: str, weights: str) -> str:
    """Return the text of the adapter's README.md.

    Args:
        session: The session of this worker.
        record: The record of the stage whose adapter it is.
        lineage: The digest of the stage's manifest.
        weights: The digest of the file with the adapter's weights.
    """
    environment = Environment(
        loader=PackageLoader("promptintern.pipeline"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {"literal": _literal, "quote": shlex.quote}
    job, evaluation = session.job, session.job.spec.evaluation
    chat, thinks = job.spec.prompt.chat, session.encoder.may_think
    text = "".join(piece.text for piece in session.templates[record.planned].pieces)
    prompt = text if record.shots else text.replace("{examples}", "")
    name = f"{job.metadata.name}-{weights[:_DIGEST_DIGITS]}"
    rank = session.adapter.highest_rank
    start, stop = session.encoder.written_start, _stop_texts(session)
    return environment.get_template("model_card.md.j2").render(
        job=job,
        base=base_model(job.spec.model.uri),
        record=record,
        is_last=record.planned == len(session.stages) - 1,
        of="" if job.spec.schedule.is_adaptive else f" of {len(session.stages)}",
        digest=lineage,
        prompt=prompt,
        written_start=start,
        ends=sorted(end_tokens(session.adapter.model, session.tokenizer, session.encoder.ends)),
        fence=_fence(prompt),
        pad=session.tokenizer.pad_token_id,
        chat=chat,
        thinks=thinks,
        date=session.encoder.date,
        template_options="".join(f", {key}={value!r}" for key, value in session.encoder.template_options.items()),
        stop=stop,
        max_new_tokens=evaluation.max_new_tokens,
        name=name,
        rank=rank,
        vllm_rank=next((each for each in RANKS if each >= rank), None),
        spaced_stop=any(text[:1].isspace() for text in stop),
        request=json.dumps(_request(session, prompt, start, stop, name=name), ensure_ascii=False, indent=2),
        data=session.data.digests,
    )


def _literal(value: Any) -> str:
    """Return ``value``, a text or a list of texts, as a literal of Python and of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _stop_texts(session: Session) -> list[str]:
    """Return the texts before which an answer ends: those of the job, and the end tokens that are no special tokens."""
    added, ends = session.tokenizer.added_tokens_decoder, session.encoder.ends
    return [*session.job.spec.evaluation.stop, *(str(added[token]) for token in ends if not added[token].special)]


def _request(session: Session, prompt: str, start: str | None, stop: list[str], *, name: str) -> dict[str, Any]:
    """Return the body of a request to vLLM's server, with ``{query}`` in place of the query.

    ``start`` is the text of the tokens before a prompt, if the server must not add special tokens.
    """
    evaluation = session.job.spec.evaluation
    request: dict[str, Any] = {"model": name}
    if session.job.spec.prompt.chat:
        request["messages"] = [{"role": "user", "content": prompt}]
    else:
        request |= {"prompt": prompt} if start is None else {"prompt": start + prompt, "add_special_tokens": False}
    if session.encoder.template_options:
        request["chat_template_kwargs"] = session.encoder.template_options
    # Without this penalty of 1, the server would take the one in the base model's generation_config.json.
    request |= {"temperature": 0, "repetition_penalty": 1, "max_tokens": evaluation.max_new_tokens}
    request |= {"stop": stop} if stop else {}
    # The server knows the end tokens of the base model, but not that of its chat template.
    return request | ({"stop_token_ids": list(session.encoder.ends)} if session.encoder.ends else {})


def _fence(text: str) -> str:
    """Return a fence of Markdown that no line of ``text`` closes."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
