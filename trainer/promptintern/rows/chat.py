"""Chat records: {"messages": [system, user, assistant]} becomes a query and an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from promptintern.rows.record import RecordReader, kind_of
from promptintern.rows.types import Row

ROLES = ("system", "user", "assistant")


@dataclass(kw_only=True)
class ChatReader:
    """Reads chat records; all must have the same system message, or none."""

    reader: RecordReader
    system: str | None = None
    _first: str | None = field(default=None, init=False)
    """Where ``system`` stands."""

    def read(self, record: Mapping[str, Any], *, where: str, number: int) -> Row | None:
        """The row in ``record``; None if it has a problem, which is noted at ``where``."""
        before = self.reader.problems.count
        turns = self._turns(record, where)
        if turns is None:
            return None
        query = self.reader.text(turns["user"], where, "the user's message")
        answer = self.reader.text(turns["assistant"], where, "the assistant's message")
        self._check_system(turns.get("system"), where)
        return self.reader.finish(
            record,
            query=query,
            accepted=[] if answer is None else [answer],
            where=where,
            number=number,
            before=before,
        )

    def _turns(self, record: Mapping[str, Any], where: str) -> dict[str, Any] | None:
        """Contents by role."""
        messages = record.get("messages")
        if not isinstance(messages, list):
            found = "has no messages" if "messages" not in record else f"has messages that are {kind_of(messages)}"
            self._note(where, f"{found}; a chat row is {{'messages': [{{'role': ..., 'content': ...}}, ...]}}")
            return None
        roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
        if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
            shown = ", ".join(map(str, roles[:8])) + (", ..." if len(roles) > 8 else "") or "none"
            self._note(
                where, f"has messages of {shown}; wanted are user and assistant, once each, and at most a system before"
            )
            return None
        return {role: _content(message) for role, message in zip(roles, messages, strict=True)}

    def _check_system(self, value: Any, where: str) -> None:
        if value is not None and not isinstance(value, str):
            self._note(where, f"the system message is {kind_of(value)}, not text")
            return
        if self._first is None:
            self._first, self.system = where, value
        elif value != self.system:
            self._note(
                where,
                f"has another system message than {self._first}; the prompt must be the same in all rows: put what "
                "changes into the user's message",
            )

    def _note(self, where: str, message: str) -> None:
        self.reader.problems.add(where, message)


def _content(message: Mapping[str, Any]) -> Any:
    """A message's content; a list of text parts is joined."""
    content = message.get("content")
    if isinstance(content, list) and content:
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return content
