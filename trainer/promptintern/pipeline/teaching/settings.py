"""The settings of a job's teacher."""

from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.training import DEFAULT_TOP_K, Teacher, TeacherModel

from promptintern.errors import UserError


def teacher_of(job: PromptInternJob) -> Teacher | None:
    """Return the settings of the job's teacher, or None if nothing is taught."""
    if job.spec.training.teacher is None and job.spec.data.has_queries:
        return Teacher()
    return job.spec.training.teacher


def stages_teach(job: PromptInternJob) -> bool:
    """Return whether stages of the run teach later stages, so that a stage's lessons are known after earlier stages."""
    teacher = teacher_of(job)
    return teacher is not None and teacher.model is not TeacherModel.BASE


def top_k_of(teacher: Teacher, model_config: Any) -> int:
    """Return the number of tokens of each stored distribution.

    Args:
        model_config: The transformers config of the base model.

    Raises:
        UserError: if the job asks for more tokens than the vocabulary of the base model has.
    """
    vocabulary = vocabulary_of(model_config)
    if teacher.top_k is not None and teacher.top_k > vocabulary:
        raise UserError.at(
            "spec.training.teacher.topK",
            f"is {teacher.top_k}, but the vocabulary of the base model has {vocabulary} tokens",
        )
    return teacher.top_k or default_top_k(model_config)


def default_top_k(model_config: Any) -> int:
    """Return the number of tokens of a distribution if the job does not ask for another one."""
    return min(DEFAULT_TOP_K, vocabulary_of(model_config))


def vocabulary_of(model_config: Any) -> int:
    """Return the number of token ids of a model with this transformers config."""
    size: int = model_config.get_text_config().vocab_size
    return size
