"""The base model and the data that ``sample://formulas`` names. They are shipped with the trainer.

The data consists of questions and answers in random worlds, each of which has its own formula language.
"""

from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from promptintern.errors import UserError
from promptintern.sample.prose import world_template
from promptintern.sample.worlds import Split, World, answer_question, iterate_questions, make_world, word_question

__all__ = ["MODEL_URI", "sample_model_path", "sample_rows", "sample_template", "sample_world"]

MODEL_URI = "sample://formulas"
_QUERIES = "/queries"
_AVAILABLE = (
    "the model sample://formulas, the data sample://formulas/train?world=W&rows=N, the same data without answers "
    "(sample://formulas/queries?world=W&rows=N) and sample://formulas/eval?world=W&rows=N (W a whole number from 0, N "
    "from 1; default 0 and 128)"
)


def sample_model_path(uri: str) -> Path:
    """Return the folder with the sample model's weights, configuration and tokenizer.

    Raises:
        UserError: if ``uri`` does not name a sample model.
    """
    if uri != MODEL_URI:
        raise UserError.at("spec.model.uri", f"{uri} is not a sample model; available are {_AVAILABLE}")
    return Path(__file__).parent / "formulas"


def sample_rows(uri: str) -> list[dict[str, str]]:
    """Return the rows that ``uri`` names, each with ``id``, ``query`` and ``answer``.

    The split ``queries`` has the rows of the split ``train`` without their answers.

    With a larger number of rows in ``uri``, further rows follow the same first rows.

    Raises:
        UserError: if ``uri`` does not name sample data, or the world has fewer rows than ``uri`` requests.
    """
    parts = urlsplit(uri)
    splits = {f"/{split}": split for split in Split} | {_QUERIES: Split.TRAIN}
    if parts.scheme != "sample" or parts.netloc != "formulas" or parts.path not in splits:
        raise UserError.at("spec.data", f"{uri} is not sample data; available are {_AVAILABLE}")
    number, count = _parameters(uri, parts.query)
    world, split = sample_world(number), splits[parts.path]
    rows = [
        {
            "id": f"w{number}-{split}-{index}",
            "query": word_question(question),
            **({} if parts.path == _QUERIES else {"answer": answer_question(world, question)}),
        }
        for index, question in enumerate(islice(iterate_questions(world, split), count))
    ]
    if len(rows) < count:
        raise UserError.at("spec.data", f"{uri} asks for {count} rows, but this world has {len(rows)} in that split")
    return rows


def sample_template(world: int) -> str:
    """Return the prompt template of the world with the number ``world``, with ``{examples}`` and ``{query}``."""
    return world_template(sample_world(world))


def sample_world(world: int) -> World:
    """Return the world with the number ``world``. Pretraining uses other worlds, which have no number."""
    return make_world(f"formulas/{world}")


def _parameters(uri: str, query: str) -> tuple[int, int]:
    values = {"world": "0", "rows": "128"}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in values or not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise UserError.at(
                "spec.data", f"{uri} has an unknown or invalid parameter, {name}={value}; available are {_AVAILABLE}"
            )
        values[name] = value
    number, count = int(values["world"]), int(values["rows"])
    if count < 1:
        raise UserError.at("spec.data", f"{uri} asks for no rows; rows must be at least 1")
    return number, count
