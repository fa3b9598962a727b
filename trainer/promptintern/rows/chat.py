"""Reads chat records, {"messages": [system, user, assistant]} or ShareGPT's {"conversations": [human, gpt]}.

The user's message becomes the query of a row, and the assistant's message becomes the answer. Records that are read as
queries need no assistant's message.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from promptintern.rows.record import RecordReader, describe_type
from promptintern.rows.types import Query

ROLES = ("system", "user", "assistant")
COLUMNS = ("messages", "conversations")
"""The columns that hold the turns of a chat: OpenAI's and ShareGPT's."""
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOOL_ROLES = {"tool", "function", "function_call", "observation", "ipython"}
_TOOLS = (
    "has calls of tools or their results, which cannot be learned; only text between a user and an assistant can. "
    "Leave such rows out, or write the call as text into the assistant's message"
)


def is_chat(columns: Container[str]) -> bool:
    """Return whether a record with these columns is a chat record."""
    return any(name in columns for name in COLUMNS)


@dataclass(kw_only=True)
class ChatReader:
    """A reader of chat records. All records must have the same system message, or all must have none."""

    reader: RecordReader
    system: str | None = None
    """The system message of all records, or None if they have none."""
    _system_where: str | None = field(default=None, init=False)
    """The location of the record from which ``system`` was read."""

    def read(self, record: Mapping[str, Any], *, where: str, number: int) -> Query | None:
        """Return the row or query in ``record``. If it has a problem, add the problem at ``where`` and return None."""
        problems_before = self.reader.problems.count
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
        column = next((name for name in COLUMNS if name in record), None)
        messages = record.get(column) if column else None
        if column == "conversations" and isinstance(messages, list):
            messages = [_from_sharegpt(message) for message in messages]
        if not isinstance(messages, list):
            problem = f"has {column} that are {describe_type(messages)}" if column else "has no messages"
            self._add_problem(where, f"{problem}; a chat row is {{'messages': [{{'role': ..., 'content': ...}}, ...]}}")
            return None
        roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
        if any(isinstance(role, str) and role in _TOOL_ROLES for role in roles) or any(
            _calls_tools(message) for message in messages
        ):
            self._add_problem(where, _TOOLS)
            return None
        answered = [["user", "assistant"], ["system", "user", "assistant"]]
        if roles not in (answered if self.reader.labelled else [*answered, ["user"], ["system", "user"]]):
            shown = ", ".join(map(str, roles[:8])) + (", ..." if len(roles) > 8 else "") or "none"
            self._add_problem(
                where,
                f"has messages with the roles {shown}; they must be user and assistant, with at most one system "
                "before them",
            )
            return None
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
    return {"role": _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role, "content": message.get("value")}


def _calls_tools(message: Any) -> bool:
    return isinstance(message, Mapping) and any(message.get(name) for name in ("tool_calls", "function_call"))


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
