"""The date in chat templates that write today's date: one date for all days, so that no prompt changes at midnight."""

import re
from datetime import UTC, datetime

DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""The date that such templates write."""
OTHER_DATE = datetime(1999, 12, 31, 23, 58, 59, tzinfo=UTC)
"""A date that differs from ``DATE`` in each part, so that a template that writes today's date shows the difference."""
_CODES = (
    *("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", "%-y"),
    *("%a", "%A", "%b", "%B", "%c", "%d", "%D", "%e", "%F", "%H", "%I", "%j", "%m", "%M", "%p", "%S", "%T", "%U"),
    *("%w", "%x", "%X", "%y", "%Y", "%z", "%Z"),
)
"""The codes of ``strftime``."""
_NAME = "strftime_now"
_CALL = re.compile(rf"""{_NAME}\s*\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
"""A call with a literal format."""


def settle_date(template: str, date: datetime = DATE) -> str:
    """Return a chat template that writes ``date`` in place of today's date.

    transformers offers the function ``strftime_now`` to templates. A macro of the same name before the template takes
    precedence over the function, however the template calls it.
    """
    if _NAME not in template:
        return template
    replacements = "".join(f"|replace({code!r}, {date.strftime(code)!r})" for code in _CODES)
    # transformers' templates drop the line break after a block, so the template still begins at the start of a line.
    return f"{{% macro {_NAME}(format) %}}{{{{ format{replacements} }}}}{{% endmacro %}}\n{template}"


def date_text(template: str) -> str:
    """Return ``DATE`` in the first literal format that ``template`` calls for, or as YYYY-MM-DD if there is none."""
    call = _CALL.search(template)
    return DATE.strftime((call[1] or call[2] or "") if call else "%Y-%m-%d")
