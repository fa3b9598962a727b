"""The result of a run: an adapter that stock PEFT and vLLM can load, with its prompt and its lineage."""

from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, PackageLoader, StrictUndefined
from promptintern_api.contract import ADAPTER_FOLDER, MANIFEST_FILE, PROMPT_FILE

from promptintern.engine.adapter import WEIGHTS
from promptintern.engine.adapter_config import CONFIG
from promptintern.pipeline.session import Session
from promptintern.pipeline.training import base_model_name
from promptintern.prompt.inference import ExamplePair, InferencePrompt, PromptPiece
from promptintern.stage_record import StageRecord
from promptintern.storage.manifest import Manifest, commit_folder, fetch_folder
from promptintern.storage.run import RunStore


def inference_prompt(session: Session, planned: int) -> InferencePrompt:
    """Return the description, for ``promptintern predict``, of the prompt that the adapter of a stage expects.

    Args:
        planned: The index of the stage's template in the session's ``templates``.
    """
    spec = session.job.spec
    template, shots = session.templates[planned], session.stages[planned].shots
    return InferencePrompt(
        base_model=spec.model.uri,
        base_digest=session.folder.digest(),
        dtype=str(spec.model.dtype),
        pieces=[PromptPiece(kind=piece.kind.value, text=piece.text) for piece in template.pieces],
        example_template=spec.prompt.example_template,
        shots=shots,
        chat=spec.prompt.chat,
        stop=list(spec.evaluation.stop),
        max_new_tokens=spec.evaluation.max_new_tokens,
        examples=[ExamplePair(query=r.query, answer=r.answer) for r in session.data.train] if shots else [],
    )


def commit_adapter(session: Session, store: RunStore, *, stage: int, term: int) -> Manifest:
    """Commit the adapter of ``stage`` to the run's folder ``adapter/``, with its prompt and its model card.

    If a valid adapter is committed already, that adapter is kept.

    Raises:
        RunFailed: if the committed adapter is damaged.
    """
    with TemporaryDirectory(prefix="promptintern-") as directory:
        fetched, folder = Path(directory, "stage"), Path(directory, "adapter")
        folder.mkdir()
        lineage = store.fetch_stage(str(stage), fetched)
        record = store.record(str(stage), lineage, StageRecord)
        for name in (WEIGHTS, CONFIG):
            (folder / name).write_bytes((fetched / name).read_bytes())
        (folder / PROMPT_FILE).write_text(inference_prompt(session, record.planned).model_dump_json(indent=2))
        (folder / "README.md").write_text(_model_card(session, record, lineage.digest()), encoding="utf-8")
        manifest = commit_folder(
            store.store,
            folder=ADAPTER_FOLDER,
            local=folder,
            manifest_path=f"{ADAPTER_FOLDER}/{MANIFEST_FILE}",
            kind="adapter",
            term=term,
            parent=lineage.digest(),
            meta={"stage": stage},
            fence=lambda: store.check_term(term),
        )
    with TemporaryDirectory(prefix="promptintern-") as copy:  # an earlier commit may have been damaged
        fetch_folder(store.store, manifest, folder=ADAPTER_FOLDER, local=Path(copy))
    return manifest


def _model_card(session: Session, record: StageRecord, digest: str) -> str:
    environment = Environment(
        loader=PackageLoader("promptintern.pipeline"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    job = session.job
    return environment.get_template("model_card.md.j2").render(
        job=job,
        base=base_model_name(job.spec.model.uri)[0],
        record=record,
        is_last=record.planned == len(session.stages) - 1,
        of="" if session.job.spec.schedule.is_adaptive else f" of {len(session.stages)}",
        digest=digest,
        prompt="".join(piece.text for piece in session.templates[record.planned].pieces),
        data=session.data.digests,
    )
