"""Trajectories as files."""

import json
from dataclasses import asdict
from pathlib import Path

from promptintern.engine.checkpoint import Trajectory


def test_a_trajectory_comes_back(tmp_path: Path) -> None:
    trajectory = Trajectory(
        loss=[1.5], grad_norm=[0.5], learning_rate=[0.1], tokens=[12], loss_tokens=[3], rows=[2], computed=[9]
    )
    trajectory.add_seconds({"forward": 1.0, "save": 0.5})
    trajectory.add_seconds({"forward": 2.0})
    trajectory.write(tmp_path)
    assert Trajectory.read(tmp_path) == trajectory
    assert (trajectory.seconds, trajectory.spent) == (3.5, {"forward": 3.0, "save": 0.5})


def test_a_trajectory_of_an_older_version_is_read(tmp_path: Path) -> None:
    known = asdict(Trajectory(loss=[1.5], tokens=[12], seconds=2.0))
    del known["computed"], known["spent"]
    (tmp_path / "trajectory.json").write_text(json.dumps(known))
    assert Trajectory.read(tmp_path) == Trajectory(loss=[1.5], tokens=[12], seconds=2.0)
