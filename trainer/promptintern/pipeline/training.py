"""Training one track from where storage says it stands, to its commit."""

import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from promptintern_api.training import OptimizerPolicy

from promptintern.engine import distributed
from promptintern.engine.checkpoint import (
    Trajectory,
    apply_state,
    new_optimizer,
    optimizer_tensors,
    read_state,
    snapshot,
    write_state,
)
from promptintern.engine.packing.planning import StepPlan
from promptintern.engine.throughput import device_peak, parameter_counts
from promptintern.engine.train import LrSpan, TrackTask, train_track
from promptintern.pipeline.events import (
    CheckpointSaved,
    Note,
    Observer,
    Speed,
    Stepped,
    Stopped,
    Trained,
    TrainingBegan,
)
from promptintern.pipeline.session import DTYPES, Session
from promptintern.pipeline.throughput import speed_of
from promptintern.pipeline.tracks import Track, layout_of, slow_rows, why_slower
from promptintern.prompt.encode import Encoded
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore, checkpoint_folder
from promptintern.uris import shown

_OPTIMIZER = "optimizer"
_FENCE_SECONDS = 10
"""How often a running driver looks whether a newer one has taken over."""


class TrackTrainer:
    """Trains tracks one after another in one process group and one loaded model."""

    def __init__(
        self, session: Session, store: RunStore, *, epoch: int, observer: Observer, writer: BackgroundWriter
    ) -> None:
        self.session = session
        self.store = store
        self.epoch = epoch
        self.observer = observer
        self.writer = writer
        self.started_at = ""
        """When the track that is trained, or was trained last, began: ISO 8601. Its checkpoints hand it on."""
        self._told: set[str] = set()
        self._weights = parameter_counts(session.adapter)
        self._peak = device_peak(session.device, DTYPES[session.job.spec.model.dtype])

    def train(self, track: Track, *, rows: Sequence[Encoded], steps: Sequence[StepPlan], course: LrSpan) -> Trajectory:
        """Train ``track`` from its newest checkpoint, or else from its parent's adapter.

        Raises:
            Stopped: after saving, if a stop was asked for before the last step.
        """
        session, spec = self.session, self.session.job.spec
        optimizer = new_optimizer(session.adapter, weight_decay=spec.training.weight_decay)
        trajectory = self._restore(track, optimizer)
        if distributed.rank() == 0:
            self._tell_slower(track, rows)
            self.observer.emit(
                TrainingBegan(
                    name=track.name,
                    stage=track.stage,
                    steps=len(steps),
                    done=trajectory.steps,
                    rate=session.templates[track.template].rate_achieved,
                    shots=track.shots,
                    prompt_tokens=float(np.mean([len(row.prompt_ids) for row in rows])),
                    tokens=sum(step.tokens for step in steps),
                    computed=sum(step.computed for step in steps),
                    loss_tokens=sum(step.loss_tokens for step in steps),
                    lanes=max((step.concurrent_packs(0) for step in steps), default=1),
                    started_at=self.started_at,
                )
            )
        layout = layout_of(session, rows)
        task = TrackTask(name=track.name, seed=track.seed, rows=rows, steps=steps, layout=layout, lr_span=course)
        complete = train_track(
            session.adapter,
            optimizer,
            task,
            training=spec.training,
            trajectory=trajectory,
            device=session.device,
            stop_requested=self.observer.stop_requested,
            after_step=self._after_step(track, optimizer, len(steps)),
        )
        self._optimizer = optimizer
        if not complete:
            self.save(track, trajectory)
            raise Stopped(f"{track.name}, step {trajectory.steps} of {len(steps)}")
        if distributed.rank() == 0:
            self.observer.emit(Trained(name=track.name, seconds=trajectory.seconds, speed=self.speed(trajectory)))
        return trajectory

    def _tell_slower(self, track: Track, rows: Sequence[Encoded]) -> None:
        """Once for all stages that it holds for."""
        why = why_slower(self.session, rows)
        if why and why not in self._told:
            self._told.add(why)
            count = slow_rows(self.session, rows)
            self.observer.emit(Note(text=f"{why} One is enough; {track.name} has {count:,} among {len(rows):,} rows."))

    def speed(self, trajectory: Trajectory) -> Speed:
        """Of all workers together; they are taken to have the same device."""
        peak = self._peak * distributed.world_size() if self._peak else None
        return speed_of(trajectory, self._weights, peak=peak)

    def save(self, track: Track, trajectory: Trajectory) -> None:
        """Write a checkpoint of ``track``, the one trained last, and wait until it is stored."""
        self._save(track, self._optimizer, trajectory)
        self.writer.drain()
        distributed.barrier()

    def commit(self, track: Track, trajectory: Trajectory, meta: dict[str, Any]) -> Manifest:
        """Store the track's adapter, trajectory and manifest. All workers return the committed manifest."""
        manifest: Manifest | None = None
        if distributed.rank() == 0:
            self.writer.drain()
            with scratch() as folder:
                session = self.session
                name, revision = base_name(session.job.spec.model.uri)
                session.adapter.save(folder, base_name=name, revision=revision)
                trajectory.write(folder)
                if self._keeps_optimizer:
                    write_state(
                        folder / _OPTIMIZER,
                        {n: t.cpu() for n, t in optimizer_tensors(self._optimizer, session.adapter).items()},
                        buffer_digest=session.adapter.buffer_digest(),
                    )
                parent = self.store.stage_manifest(track.parent) if track.parent is not None else None
                manifest = self.store.commit_stage(
                    track.key,
                    epoch=self.epoch,
                    local=folder,
                    parent=parent.digest() if parent else None,
                    meta=meta,
                )
        committed: Manifest = distributed.broadcast_object(manifest)
        if committed.epoch != self.epoch:
            # Another incarnation was first; what it committed is the stage now.
            self.load(track.key)
        return committed

    def load(self, key: str) -> None:
        """Make the adapter what track ``key`` committed, on all workers."""
        if distributed.rank() == 0:
            with scratch() as folder:
                self.store.fetch_stage(key, folder)
                self.session.adapter.load(folder)
        distributed.broadcast(self.session.adapter.flat.data)

    @property
    def _keeps_optimizer(self) -> bool:
        return self.session.job.spec.training.between_stages.optimizer is OptimizerPolicy.KEEP

    def _restore(self, track: Track, optimizer: torch.optim.AdamW) -> Trajectory:
        """Rank 0 reads, everybody gets the same."""
        state: dict[str, torch.Tensor] | None = None
        trajectory = Trajectory()
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        if distributed.rank() == 0:
            found = self.store.latest_checkpoint(track.key)
            if found is not None:
                manifest, folder = found
                with scratch() as local:
                    self.store.fetch_checkpoint(manifest, folder, local)
                    state = read_state(local, buffer_digest=self.session.adapter.buffer_digest())
                    trajectory = Trajectory.read(local)
                self.started_at = str(manifest.meta.get("startedAt", self.started_at))
                self.observer.emit(Note(text=f"{track.name} continues after step {trajectory.steps}"))
            else:
                state = self._parents_state(track)
        shared: tuple[dict[str, torch.Tensor], Trajectory] = distributed.broadcast_object((state, trajectory))
        apply_state(shared[0], self.session.adapter, optimizer)
        return shared[1]

    def _parents_state(self, track: Track) -> dict[str, torch.Tensor]:
        adapter = self.session.adapter
        if track.parent is None:
            return {"parameters": adapter.initial.cpu()}
        with scratch() as folder:
            self.store.fetch_stage(track.parent, folder)
            adapter.load(folder)
            state = {"parameters": adapter.flat.detach().cpu().clone()}
            if self._keeps_optimizer:
                kept = read_state(folder / _OPTIMIZER, buffer_digest=adapter.buffer_digest())
                state |= {f"optimizer.{name}": tensor for name, tensor in kept.items()}
        return state

    def _after_step(self, track: Track, optimizer: torch.optim.AdamW, steps: int) -> Callable[[Trajectory], None]:
        """Progress, fencing and checkpoints, by rank 0."""
        if distributed.rank() != 0:
            return lambda _trajectory: None
        every = self.session.job.spec.checkpoint.every_seconds
        saved = fenced = time.monotonic()

        def after_step(trajectory: Trajectory) -> None:
            nonlocal saved, fenced
            now = time.monotonic()
            self.observer.emit(
                Stepped(
                    name=track.name,
                    stage=track.stage,
                    done=trajectory.steps,
                    steps=steps,
                    loss=trajectory.loss[-1],
                    speed=self.speed(trajectory),
                )
            )
            self.writer.poll()
            if now - saved >= every and trajectory.steps < steps:
                saved = fenced = now
                self._save(track, optimizer, trajectory)
            elif now - fenced >= _FENCE_SECONDS and self.writer.idle:
                fenced = now
                self.writer.submit(lambda: self.store.check_epoch(self.epoch))

        return after_step

    def _save(self, track: Track, optimizer: torch.optim.AdamW, trajectory: Trajectory) -> None:
        """A checkpoint; copied now, written beside training."""
        if distributed.rank() != 0:
            return
        tensors = snapshot(self.session.adapter, optimizer)
        frozen = copy.deepcopy(trajectory)
        buffer_digest = self.session.adapter.buffer_digest()
        keep = self.session.job.spec.checkpoint.keep
        meta = {"track": track.name, "startedAt": self.started_at}

        def write() -> None:
            self.store.check_epoch(self.epoch)
            with scratch() as folder:
                write_state(folder, tensors, buffer_digest=buffer_digest)
                frozen.write(folder)
                self.store.save_checkpoint(
                    track.key,
                    epoch=self.epoch,
                    step=frozen.steps,
                    local=folder,
                    keep=keep,
                    meta=meta,
                )
            self.observer.emit(
                CheckpointSaved(
                    stage=track.stage,
                    step=frozen.steps,
                    folder=checkpoint_folder(track.key, self.epoch, frozen.steps),
                )
            )

        self.writer.submit(write, replaceable=True)


def base_name(uri: str) -> tuple[str, str | None]:
    """The base model as an adapter's config holds it: a hub's name and revision, a folder's path, else the URI."""
    if uri.startswith("hf://"):
        name, _, revision = uri.removeprefix("hf://").partition("@")
        return name, revision or None
    return shown(uri), None


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty local folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="promptintern-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
