"""The model card of an adapter: how to load it, how to prompt it, and where it comes from.

Everything that a reader may copy from the card is generated from the facts of the run, and a test executes it.
"""

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from promptintern.pipeline.session import Session
from promptintern.pipeline.training import base_model_name
from promptintern.stage_record import StageRecord

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for --max-lora-rank."""
_DIGEST_DIGITS = 12


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
    job, evaluation = session.job, session.job.spec.evaluation
    chat, thinks = job.spec.prompt.chat, session.encoder.may_think
    text = "".join(piece.text for piece in session.templates[record.planned].pieces)
    prompt = text if record.shots else text.replace("{examples}", "")
    name = f"{job.metadata.name}-{weights[:_DIGEST_DIGITS]}"
    rank = highest_rank(session)
    return environment.get_template("model_card.md.j2").render(
        job=job,
        base=base_model_name(job.spec.model.uri)[0],
        record=record,
        is_last=record.planned == len(session.stages) - 1,
        of="" if job.spec.schedule.is_adaptive else f" of {len(session.stages)}",
        digest=lineage,
        prompt=prompt,
        prompt_literal=json.dumps(prompt, ensure_ascii=False),
        chat=chat,
        thinks=thinks,
        date=session.encoder.date,
        template_options="".join(f", {key}={value!r}" for key, value in session.encoder.template_options.items()),
        stop=list(evaluation.stop),
        max_new_tokens=evaluation.max_new_tokens,
        name=name,
        rank=rank,
        vllm_rank=next((each for each in VLLM_RANKS if each >= rank), None),
        request=json.dumps(_request(session, prompt, name=name, chat=chat), ensure_ascii=False, indent=2),
        data=session.data.digests,
    )


def highest_rank(session: Session) -> int:
    """Return the highest rank of any layer of the adapter."""
    config: Any = session.adapter.model.peft_config["default"]
    ranks: list[int] = [config.r, *(config.rank_pattern or {}).values()]
    return max(ranks)


def _request(session: Session, prompt: str, *, name: str, chat: bool) -> dict[str, Any]:
    """Return the body of a request to a server with the API of OpenAI, with ``{query}`` in place of the query."""
    evaluation = session.job.spec.evaluation
    request: dict[str, Any] = {"model": name}
    request |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    if session.encoder.template_options:
        request["chat_template_kwargs"] = session.encoder.template_options
    request |= {"temperature": 0, "max_tokens": evaluation.max_new_tokens}
    return request | ({"stop": list(evaluation.stop)} if evaluation.stop else {})
