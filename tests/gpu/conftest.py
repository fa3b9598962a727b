"""These tests need a GPU; elsewhere they are not collected, and `make gpu` says so."""

import torch

if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
