"""The body of a request for server-side apply, which the API server parses as YAML."""

import json
import re
from collections.abc import Mapping
from typing import Any

_ESCAPED = re.compile("[\x7f-\uffff]")
"""The characters that are escaped: YAML has fewer printable characters than JSON, and more line breaks."""


def apply_body(manifest: Mapping[str, Any]) -> bytes:
    """Return ``manifest`` as a text that is both JSON and YAML.

    JSON escapes a character above U+FFFF, such as an emoji, as two surrogates, which YAML refuses. Therefore, these
    characters are not escaped.
    """
    text = json.dumps(manifest, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()
