"""The teachers of a run: what each stage learns from a model with a longer prompt."""

from collections.abc import Callable, Sequence

from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.choice import TeachingModel, teacher_of_stage
from promptintern.pipeline.teaching.lessons import Lessons
from promptintern.stage_record import StageRecord

Earlier = Sequence[tuple[StageRecord, str]]
"""The record of each stage that is committed, and the digest of its manifest."""
_NONE = Lessons()


class StageTeachers:
    """The teachers of a run's stages. The lessons of one teacher are in memory at a time."""

    def __init__(self, session: Session, teach: Callable[[TeachingModel], Lessons]) -> None:
        """Create the teachers of the stages of ``session``.

        Args:
            teach: A function that returns all lessons of a teacher, from storage or by a teaching pass.
        """
        self._session = session
        self._teach = teach
        self._newest: tuple[str | None, Lessons] = (None, _NONE)

    def lessons(self, earlier: Earlier) -> Lessons:
        """Return the lessons of the stage that follows the ``earlier`` stages; empty if it has no teacher."""
        model = teacher_of_stage(self._session, earlier)
        if model is None:
            return _NONE
        if self._newest[0] != model.name:
            self._newest = (None, _NONE)  # frees the memory before the pass
            self._newest = (model.name, self._teach(model))
        return self._newest[1]

    def label(self, earlier: Earlier) -> str | None:
        """Return how a report calls the teacher of the stage that follows ``earlier``; None if nothing was taught."""
        model = teacher_of_stage(self._session, earlier)
        return model.label if model and self.lessons(earlier).lessons else None
