"""The result of a run: an adapter that stock PEFT and vLLM can load, with its prompt and its lineage."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from promptintern_api.contract import ADAPTER_FOLDER, MANIFEST_FILE, PROMPT_FILE

from promptintern.engine.adapter import WEIGHTS
from promptintern.engine.adapter_config import CONFIG
from promptintern.pipeline.model_card import model_card
from promptintern.pipeline.session import Session
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
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        card = model_card(session, record, lineage=lineage.digest(), weights=weights)
        (folder / "README.md").write_text(card, encoding="utf-8")
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
