"""What a run imports, for `warm`. Importing is all it may do: threads and event loops do not survive a fork."""

import peft  # noqa: F401
import promptintern.cli.app
import promptintern.run.driver
import promptintern.run.worker  # noqa: F401
import s3fs  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401
