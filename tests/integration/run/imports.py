"""The imports of a run, for `warm`. It must do nothing but import: threads and event loops do not survive a fork."""

import peft  # noqa: F401
import promptintern.cli.app
import promptintern.run.driver
import promptintern.run.worker  # noqa: F401
import s3fs  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401
