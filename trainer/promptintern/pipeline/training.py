"""Trains a track, starting from its newest checkpoint if it has one, and commits the result."""

import copy
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from promptintern_api.training import OptimizerPolicy
from promptintern_api.training_status import TimeShares

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
from promptintern.engine.throughput import ParameterCounts, device_peak, parameter_counts, training_flops
from promptintern.engine.train import LrSpan, TrackTask, train_track
from promptintern.models.load import DTYPES
from promptintern.pipeline.events import CheckpointSaved, Note, Observer, Stepped, Stopped, Trained, TrainingBegan
from promptintern.pipeline.phases import Phase
from promptintern.pipeline.session import Session
from promptintern.pipeline.tracks import PreparedTrack, Track, slow_rows
from promptintern.stage_record import Throughput, TrackRecord
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore, checkpoint_folder
from promptintern.uris import display_uri

_OPTIMIZER = "optimizer"
_FENCE_SECONDS = 10
"""The number of seconds between two checks of whether a driver with a newer term has taken over."""


class TrackTrainer:
    """A trainer that trains the tracks of a run one after another, with one loaded model."""

    def __init__(
        self, session: Session, store: RunStore, *, term: int, observer: Observer, writer: BackgroundWriter
    ) -> None:
        self.session = session
        self.store = store
        self.term = term
        self.observer = observer
        self.writer = writer
        self.started_at = _now()
        """The time at which the most recent track first began to train. The track's checkpoints store this time."""
        self._noted_reasons: set[str] = set()
        self._parameters = parameter_counts(session.adapter)
        self._peak = device_peak(session.device, DTYPES[session.job.spec.model.dtype])

    def train(self, prepared: PreparedTrack, lr_span: LrSpan) -> Trajectory:
        """Train a track to its last step and return its trajectory.

        Training starts from the newest checkpoint of the track, or else from the adapter of its parent, or else from a
        new adapter.

        Raises:
            Stopped: if a stop was requested before the last step; a checkpoint is saved first.
        """
        session, spec = self.session, self.session.job.spec
        track, rows, steps = prepared.track, prepared.rows, prepared.steps
        session.free_device()
        optimizer = new_optimizer(session.adapter, weight_decay=spec.training.weight_decay)
        trajectory = self._restore(track, optimizer)
        if distributed.rank() == 0:
            self._note_slow_rows(prepared)
            self.observer.emit(
                TrainingBegan(
                    name=track.name,
                    stage=track.stage,
                    plan=prepared.plan,
                    steps=len(steps),
                    done=trajectory.steps,
                    computed_tokens=sum(step.computed for step in steps),
                    loss_tokens=sum(step.loss_tokens for step in steps),
                    lanes=max((step.concurrent_packs(0) for step in steps), default=1),
                    started_at=self.started_at,
                )
            )
        task = TrackTask(
            name=track.name, seed=track.seed, rows=rows, steps=steps, layout=prepared.layout, lr_span=lr_span
        )
        with session.clock.phase(Phase.TRAIN):
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
            self.observer.emit(
                Trained(name=track.name, seconds=trajectory.seconds, throughput=self.throughput(trajectory))
            )
        return trajectory

    def _note_slow_rows(self, prepared: PreparedTrack) -> None:
        """Emit a note that says why a track cannot use the fastest pack layout, once for each reason."""
        reason, rows = prepared.slow_reason, prepared.rows
        if reason and reason not in self._noted_reasons:
            self._noted_reasons.add(reason)
            share = f"{prepared.track.name} has {slow_rows(self.session, rows):,} among its {len(rows):,} rows"
            self.observer.emit(Note(text=f"{reason} One such row is enough; {share}."))

    def throughput(self, trajectory: Trajectory) -> Throughput:
        """Return the total throughput of all workers, assuming that every worker has the same kind of device."""
        peak = self._peak * distributed.world_size() if self._peak else None
        return throughput_of(trajectory, self._parameters, peak=peak)

    def record(self, prepared: PreparedTrack, trajectory: Trajectory) -> TrackRecord:
        """Return the record of ``prepared``, the most recently trained track."""
        return TrackRecord(
            **dict(prepared.plan),
            name=prepared.track.name,
            term=self.term,
            steps=trajectory.steps,
            loss_first=trajectory.loss[0],
            loss_last=trajectory.loss[-1],
            seconds=round(trajectory.seconds, 3),
            throughput=self.throughput(trajectory),
            slow_reason=prepared.slow_reason,
            started_at=self.started_at,
            finished_at=_now(),
        )

    def save(self, track: Track, trajectory: Trajectory) -> None:
        """Write a checkpoint of ``track``, the most recently trained track, and wait until the checkpoint is stored."""
        self._save(track, self._optimizer, trajectory)
        self.writer.drain()
        distributed.barrier()

    def commit(self, track: Track, trajectory: Trajectory, record: TrackRecord) -> Manifest:
        """Commit the adapter and the trajectory of ``track``, and return the committed manifest on all workers."""
        with self.session.clock.phase(Phase.SAVE):
            manifest = self._commit(track, trajectory, record) if distributed.rank() == 0 else None
            committed: Manifest = distributed.broadcast_object(manifest)
        if committed.term != self.term:
            # Workers of another term have committed first, so the stage's adapter is theirs.
            self.load(track.key)
        return committed

    def _commit(self, track: Track, trajectory: Trajectory, record: TrackRecord) -> Manifest:
        self.writer.drain()
        with TemporaryDirectory(prefix="promptintern-") as directory:
            folder = Path(directory)
            session = self.session
            name, revision = base_model_name(session.job.spec.model.uri)
            session.adapter.save(folder, base_name=name, revision=revision)
            trajectory.write(folder)
            if self._keeps_optimizer:
                write_state(
                    folder / _OPTIMIZER,
                    {n: t.cpu() for n, t in optimizer_tensors(self._optimizer, session.adapter).items()},
                    buffer_digest=session.adapter.buffer_digest(),
                )
            parent = self.store.stage_manifest(track.parent) if track.parent is not None else None
            return self.store.commit_stage(
                track.key,
                term=self.term,
                local=folder,
                parent=parent.digest() if parent else None,
                meta=record.to_meta(),
            )

    def load(self, key: str | None) -> None:
        """Load the committed adapter of the track with this key, or a new adapter for None, on all workers."""
        if key is None:
            self.session.adapter.load_flat(self.session.adapter.initial)
        elif distributed.rank() == 0:
            with TemporaryDirectory(prefix="promptintern-") as directory:
                folder = Path(directory)
                self.store.fetch_stage(key, folder)
                self.session.adapter.load(folder)
        distributed.broadcast(self.session.adapter.flat.data)

    @property
    def _keeps_optimizer(self) -> bool:
        return self.session.job.spec.training.between_stages.optimizer is OptimizerPolicy.KEEP

    def _restore(self, track: Track, optimizer: torch.optim.AdamW) -> Trajectory:
        """Load the newest checkpoint of ``track``, or else the final state of its parent, and return the trajectory.

        Rank 0 reads the state and sends it to all workers.
        """
        state: dict[str, torch.Tensor] | None = None
        trajectory = Trajectory()
        self.started_at = _now()
        if distributed.rank() == 0:
            checkpoint = self.store.latest_checkpoint(track.key)
            if checkpoint is not None:
                manifest, folder = checkpoint
                with TemporaryDirectory(prefix="promptintern-") as directory:
                    local = Path(directory)
                    self.store.fetch_checkpoint(manifest, folder, local)
                    state = read_state(local, buffer_digest=self.session.adapter.buffer_digest())
                    trajectory = Trajectory.read(local)
                self.started_at = datetime.fromisoformat(str(manifest.meta["startedAt"]))
                self.observer.emit(Note(text=f"{track.name} continues after step {trajectory.steps}"))
            else:
                state = self._parent_state(track)
        shared: tuple[dict[str, torch.Tensor], Trajectory] = distributed.broadcast_object((state, trajectory))
        apply_state(shared[0], self.session.adapter, optimizer)
        return shared[1]

    def _parent_state(self, track: Track) -> dict[str, torch.Tensor]:
        adapter = self.session.adapter
        if track.parent is None:
            return {"parameters": adapter.initial.cpu()}
        with TemporaryDirectory(prefix="promptintern-") as directory:
            folder = Path(directory)
            self.store.fetch_stage(track.parent, folder)
            adapter.load(folder)
            state = {"parameters": adapter.flat.detach().cpu().clone()}
            if self._keeps_optimizer:
                kept = read_state(folder / _OPTIMIZER, buffer_digest=adapter.buffer_digest())
                state |= {f"optimizer.{name}": tensor for name, tensor in kept.items()}
        return state

    def _after_step(self, track: Track, optimizer: torch.optim.AdamW, steps: int) -> Callable[[Trajectory], None]:
        """Return a function that must be called after each optimizer step.

        On rank 0, the function reports progress, and at intervals writes a checkpoint and checks that no newer term
        exists. On other ranks, the function does nothing.
        """
        if distributed.rank() != 0:
            return lambda _trajectory: None
        every = self.session.job.spec.checkpoint.every_seconds
        last_save = last_check = time.monotonic()

        def after_step(trajectory: Trajectory) -> None:
            nonlocal last_save, last_check
            now = time.monotonic()
            self.observer.emit(
                Stepped(
                    name=track.name,
                    stage=track.stage,
                    done=trajectory.steps,
                    steps=steps,
                    loss=trajectory.loss[-1],
                    seconds=trajectory.seconds,
                    throughput=self.throughput(trajectory),
                )
            )
            self.session.clock.tick()
            self.writer.poll()
            if now - last_save >= every and trajectory.steps < steps:
                last_save = last_check = now
                self._save(track, optimizer, trajectory)
            elif now - last_check >= _FENCE_SECONDS and self.writer.idle:
                last_check = now
                self.writer.submit(lambda: self.store.check_term(self.term))

        return after_step

    def _save(self, track: Track, optimizer: torch.optim.AdamW, trajectory: Trajectory) -> None:
        """Copy the state of training now, and write it as a checkpoint in the background while training continues."""
        if distributed.rank() != 0:
            return
        tensors = snapshot(self.session.adapter, optimizer)
        frozen = copy.deepcopy(trajectory)
        buffer_digest = self.session.adapter.buffer_digest()
        keep = self.session.job.spec.checkpoint.keep
        meta = {"track": track.name, "startedAt": self.started_at.isoformat()}

        def write() -> None:
            self.store.check_term(self.term)
            with TemporaryDirectory(prefix="promptintern-") as directory:
                folder = Path(directory)
                write_state(folder, tensors, buffer_digest=buffer_digest)
                frozen.write(folder)
                self.store.save_checkpoint(
                    track.key,
                    term=self.term,
                    step=frozen.steps,
                    local=folder,
                    keep=keep,
                    meta=meta,
                )
            self.observer.emit(
                CheckpointSaved(
                    stage=track.stage,
                    step=frozen.steps,
                    folder=checkpoint_folder(track.key, self.term, frozen.steps),
                )
            )

        self.writer.submit(write, replaceable=True)


def throughput_of(trajectory: Trajectory, parameters: ParameterCounts, *, peak: float | None) -> Throughput:
    """Return the training throughput of a track, whose trajectory must have at least one optimizer step.

    Args:
        peak: The peak FLOP/s of all devices in total, or None if it is unknown.
    """
    seconds, timed = max(trajectory.seconds, 1e-9), sum(trajectory.spent.values())
    totals = trajectory.totals
    flops = training_flops(parameters, computed=totals.computed, loss_tokens=totals.loss_tokens)
    return Throughput(
        examples_per_second=totals.rows / seconds,
        tokens_per_second=totals.tokens / seconds,
        computed_tokens_per_second=totals.computed / timed if timed else None,
        loss_tokens_per_second=totals.loss_tokens / seconds,
        mfu=flops / timed / peak if timed and peak else None,
        time_shares=TimeShares(**{activity: spent / timed for activity, spent in trajectory.spent.items()})
        if timed
        else None,
    )


def base_model_name(uri: str) -> tuple[str, str | None]:
    """Return the name and the revision of the base model at ``uri``, as an adapter's config records them.

    A model that is not on the Hugging Face Hub is named by its path or URI, and its revision is None.
    """
    if uri.startswith("hf://"):
        name, _, revision = uri.removeprefix("hf://").partition("@")
        return name, revision or None
    return display_uri(uri), None


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
