"""Libraries report only errors."""

import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from promptintern.libraries import quiet_libraries


@pytest.fixture
def restored() -> Iterator[logging.Logger]:
    """Provide the root logger, and restore it and the filters of warnings afterwards."""
    root, library = logging.getLogger(), logging.getLogger("a_library")
    handlers = list(root.handlers)
    with warnings.catch_warnings():
        yield root
    root.handlers[:] = handlers
    library.setLevel(logging.NOTSET)


def test_libraries_report_only_errors(restored: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray Train shows every record of a worker that passes the level of its logger, such as bm25s's DEBUG."""
    restored.handlers[:] = [logging.StreamHandler(sys.stderr)]
    library = logging.getLogger("a_library")
    library.setLevel(logging.DEBUG)
    quiet_libraries()
    library.debug("building an index")
    library.warning("this is deprecated")
    warnings.warn("this, too", FutureWarning, stacklevel=1)
    library.error("the file is broken")
    assert capfd.readouterr().err == "the file is broken\n"
