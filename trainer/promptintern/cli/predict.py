"""``promptintern predict``: queries in, answers out."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from promptintern.errors import UserError


def answer_queries(
    *,
    adapter: str,
    queries: Sequence[str],
    input_file: Path | None,
    output_file: Path | None,
    base_model: str | None,
    batch_size: int,
) -> None:
    """Answer ``queries``, those of ``input_file``, or those on standard input, one a line.

    Raises:
        UserError: if there is no query, or the file cannot be read.
    """
    from promptintern.run.answering import load_internalized

    asked = list(queries)
    if input_file is not None:
        asked += _from_jsonl(input_file)
    elif not asked:
        asked = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if not asked:
        raise UserError.at("QUERY", "is missing: give queries as arguments, on standard input, or with --input")
    uri = adapter if "://" in adapter else Path(adapter).resolve().as_uri()
    with tempfile.TemporaryDirectory(prefix="promptintern-") as local:
        model = load_internalized(uri, Path(local), base_model=base_model)
        answers = [answer.text for answer in model.answer(asked, batch_size=batch_size)]
    if output_file is not None:
        lines = [json.dumps({"query": q, "answer": a}, ensure_ascii=False) for q, a in zip(asked, answers, strict=True)]
        output_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return
    for answer in answers:
        sys.stdout.write(f"{answer.strip()}\n")


def _from_jsonl(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError.at(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError.at(str(path), f"is not UTF-8 text (byte {error.start})") from None
    queries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            query = json.loads(line)["query"]
        except (ValueError, KeyError, TypeError):
            raise UserError.at(f"{path}:{number}", 'is no JSON object with a field "query"') from None
        if not isinstance(query, str):
            raise UserError.at(f"{path}:{number}", 'has a "query" that is no text')
        queries.append(query)
    return queries
