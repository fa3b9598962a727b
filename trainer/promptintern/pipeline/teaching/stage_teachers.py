"""The teachers of a run: what each stage learns from a model with a longer prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.choice import TeachingModel, teacher_of_stage
from promptintern.pipeline.teaching.lessons import Lessons, TeachingCost
from promptintern.stage_record import StageRecord

Earlier = Sequence[tuple[StageRecord, str]]
"""The record of each stage that is committed, and the digest of its manifest."""
_NONE = Lessons()


@dataclass(frozen=True, kw_only=True)
class StageTeachers:
    """The teachers of a run's stages. Each of them answers the queries once, however many stages it teaches."""

    session: Session
    teach: Callable[[TeachingModel], Lessons]
    """A function that returns all lessons of a teacher, from storage or by a teaching pass."""
    _lessons: dict[str, Lessons] = field(default_factory=dict)

    def lessons(self, earlier: Earlier) -> Lessons:
        """Return the lessons of the stage that follows the ``earlier`` stages; empty if it has no teacher."""
        model = teacher_of_stage(self.session, earlier)
        if model is None:
            return _NONE
        if model.name not in self._lessons:
            self._lessons[model.name] = self.teach(model)
        return self._lessons[model.name]

    def label(self, earlier: Earlier) -> str | None:
        """Return how a report calls the teacher of the stage that follows ``earlier``; None if it has no teacher."""
        model = teacher_of_stage(self.session, earlier)
        return model.label if model else None

    @property
    def cost(self) -> TeachingCost:
        """The cost of all teachers together."""
        total = TeachingCost()
        for lessons in self._lessons.values():
            total += lessons.cost
        return total
