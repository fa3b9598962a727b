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
_FORMAT = re.compile(r"""strftime_now\(\s*(["'])([^"']*)\1\s*\)""")
_NAME = "strftime_now"


def settle_date(template: str) -> tuple[str, str | None]:
    """Return a chat template that writes ``DATE`` in place of today's date, and the text that it writes.

    The text is None, and the template is unchanged, if the template writes no date. transformers offers the function
    ``strftime_now`` to templates; a macro of the same name takes precedence over it.
    """
    if _NAME not in template:
        return template, None
    replacements = "".join(f"|replace({code!r}, {DATE.strftime(code)!r})" for code in _CODES)
    macro = f"{{%- macro {_NAME}(format) -%}}{{{{ format{replacements} }}}}{{%- endmacro -%}}"
    form = _FORMAT.search(template)
    return macro + template, DATE.strftime(form[2] if form else "%Y-%m-%d")
