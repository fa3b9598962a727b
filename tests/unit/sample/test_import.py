"""Importing the sample package is cheap, because the validator uses it without torch."""

import subprocess
import sys


def test_import_is_light() -> None:
    code = "import sys, promptintern.sample; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
