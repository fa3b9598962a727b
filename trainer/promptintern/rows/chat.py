"""Reads chat records, {"messages": [system, user, assistant]} or ShareGPT's {"conversations": [human, gpt]}.

The user's message becomes the query of a row, and the assistant's message becomes the answer. Records that are read as
queries need no assistant's message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from promptintern.rows.columns import CHAT_COLUMNS, chat_column
from promptintern.rows.record import RecordReader, describe_type
from promptintern.rows.types import Query

ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOOL_ROLES = {"tool", "function", "function_call", "observation", "ipython"}
_ONLY_TEXT = "which cannot be learned; only text between a user and an assistant can. Leave such rows out"
_TOOLS = f"has calls of tools or their results, {_ONLY_TEXT}, or write the call as text into the assistant's message"
UNREADABLE_COLUMNS = {
    **dict.fromkeys(("tools", "functions"), "descriptions of tools"),
    **dict.fromkeys(("images", "videos", "audios"), "pictures or sound"),
}
"""The columns beside a chat that a row must leave empty, and what they hold."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""The keys of an assistant's message that hold what it thought before its answer."""


@dataclass(kw_only=True)
class ChatReader:
    """A reader of chat records. All records must have the same system message, or all must have none."""

    reader: RecordReader
    system: str | None = None
    """The system message of all records, or None if they have none."""
    _system_where: str | None = field(default=None, init=False)
    """The location of the record from which ``system`` was read."""

    @cached_property
    def _used(self) -> frozenset[str | None]:
        """The columns that are read, or that must be empty."""
        used = self.reader.columns.model_dump(exclude={"query", "answer"}).values()
        return frozenset([*used, *CHAT_COLUMNS, *UNREADABLE_COLUMNS])

    def read(self, record: Mapping[str, Any], *, where: str, number: int) -> Query | None:
        """Return the row or query in ``record``. If it has a problem, add the problem at ``where`` and return None."""
        problems_before = self.reader.problems.count
        self.reader.has_chats = True
        self.reader.unused.note(record, self._used)
        turns = self._turns(record, where)
        if turns is None:
            return None
        query = self.reader.read_text(turns["user"], where, "the user's message")
        answer = None
        if self.reader.labelled:
            answer = self.reader.read_text(turns["assistant"], where, "the assistant's message")
        else:
            self.reader.unread_answers += "assistant" in turns
        self._check_system(turns.get("system"), where)
        return self.reader.build_row(
            record,
            query=query,
            accepted=[] if answer is None else [answer],
            where=where,
            number=number,
            problems_before=problems_before,
        )

    def _turns(self, record: Mapping[str, Any], where: str) -> dict[str, Any] | None:
        """Return the content of the messages by role. If they form no row, add a problem and return None."""
        column = chat_column(record)
        messages = record.get(column) if column else None
        if isinstance(messages, list):
            messages = [_from_sharegpt(message) for message in messages]
        if not isinstance(messages, list):
            problem = f"has {column} that are {describe_type(messages)}" if column else "has no messages"
            self._add_problem(where, f"{problem}; a chat row is {{'messages': [{{'role': ..., 'content': ...}}, ...]}}")
            return None
        if fault := _not_text(record, messages):
            self._add_problem(where, fault)
            return None
        roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
        answered = [["user", "assistant"], ["system", "user", "assistant"]]
        if roles not in (answered if self.reader.labelled else [*answered, ["user"], ["system", "user"]]):
            shown = ", ".join(map(str, roles[:8])) + (", ..." if len(roles) > 8 else "") or "none"
            self._add_problem(
                where,
                f"has messages with the roles {shown}; they must be user and assistant, with at most one system "
                "before them",
            )
            return None
        if self.reader.labelled and (fault := _not_learned(messages[-1])):
            self._add_problem(where, fault)
        return {role: _content(message) for role, message in zip(roles, messages, strict=True)}

    def _check_system(self, value: Any, where: str) -> None:
        if value is not None and not isinstance(value, str):
            self._add_problem(where, f"the system message is {describe_type(value)}, not text")
            return
        if self._system_where is None:
            self._system_where, self.system = where, value
        elif value != self.system:
            self._add_problem(
                where,
                f"has a different system message than {self._system_where}; the prompt must be the same in all rows, "
                "so put what changes into the user message",
            )

    def _add_problem(self, where: str, message: str) -> None:
        self.reader.problems.add(where, message)


def _from_sharegpt(message: Any) -> Any:
    """Return a turn of ShareGPT, {"from": ..., "value": ...}, as a message."""
    if not isinstance(message, Mapping) or "from" not in message:
        return message
    role = message["from"]
    role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    return {**message, "role": role, "content": message.get("value")}


def _not_text(record: Mapping[str, Any], messages: Sequence[Any]) -> str | None:
    """Return what a row has besides text, such as calls of tools and images, or None if it has only text."""
    for column, what in UNREADABLE_COLUMNS.items():
        value = record.get(column)
        if value and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")):
            return f"has {what} in the column {column!r}, {_ONLY_TEXT}"
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        role, content = message.get("role"), message.get("content")
        if isinstance(role, str) and role in _TOOL_ROLES:
            return _TOOLS
        if any(message.get(name) for name in ("tool_calls", "function_call")):
            return _TOOLS
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and kind != "text":
                return f"has a message with a part of type {kind!r}, {_ONLY_TEXT}"
    return None


def _not_learned(answer: Mapping[str, Any]) -> str | None:
    """Return what would be lost if the content of the assistant's message ``answer`` was learned, or None."""
    if thought := next((name for name in _THOUGHTS if answer.get(name)), None):
        return (
            f"the assistant's message has a thought in {thought!r}, which would not be learned; remove it, or write it "
            "into the content"
        )
    if answer.get("weight") == 0:
        return "the assistant's message has the weight 0, so it must not be learned; leave such rows out"
    return None


def _content(message: Mapping[str, Any]) -> Any:
    """Return the content of ``message``. If the content is a list of text parts, return the joined text."""
    content = message.get("content")
    if isinstance(content, list) and content:
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return content
