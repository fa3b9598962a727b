"""The date in chat templates that write today's date: one date for all days, so that no prompt changes at midnight."""

import re
from datetime import UTC, datetime

DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""The date that such templates write."""
_CODES = (
    *("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", "%-y"),
    *("%a", "%A", "%b", "%B", "%c", "%d", "%D", "%e", "%F", "%H", "%I", "%j", "%m", "%M", "%p", "%S", "%T", "%U"),
    *("%w", "%x", "%X", "%y", "%Y", "%z", "%Z"),
)
"""The codes of ``strftime``."""
_CALL = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
"""A call with a literal format."""
_NAME = "strftime_now"


def settle_date(template: str) -> tuple[str, str | None]:
    """Return a chat template that writes ``DATE`` in place of today's date, and the text that it may write.

    The text is None, and the template is unchanged, if the template writes no date. transformers offers the function
    ``strftime_now`` to templates. Its calls with a literal format are replaced by the text; if other calls are left, a
    macro of the same name before the template takes precedence over the function.
    """
    if f"{_NAME}(" not in template:
        return template, None
    call = _CALL.search(template)
    date = DATE.strftime((call[1] or call[2] or "") if call else "%Y-%m-%d")
    settled = _CALL.sub(lambda found: repr(DATE.strftime(found[1] or found[2] or "")), template)
    if f"{_NAME}(" in settled:
        replacements = "".join(f"|replace({code!r}, {DATE.strftime(code)!r})" for code in _CODES)
        settled = f"{{%- macro {_NAME}(format) -%}}{{{{ format{replacements} }}}}{{%- endmacro %}}{settled}"
    return settled, date
