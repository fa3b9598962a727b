"""What users can do about a failure, which depends on whether a job's pod or a command of theirs has failed."""

import os

from promptintern_api.contract import ENV_JOB

VLLM_PYTHON = "PROMPTINTERN_VLLM_PYTHON"
"""The environment variable with the path of the Python program in whose environment vLLM is installed."""


def is_in_job() -> bool:
    """Return whether this process runs in a pod of a job, whose users cannot run a command here."""
    return bool(os.environ.get(ENV_JOB))


def run_again() -> str:
    """Say how a run continues after a failure whose cause may pass or can be removed."""
    if is_in_job():
        return "the operator tries again by itself, as often as spec.retries allows, and continues from what is stored"
    return "run the same command again; it continues from what is stored"


def submit_again() -> str:
    """Say how to repeat what failed once its cause is removed."""
    return f"then submit job {os.environ[ENV_JOB]} again" if is_in_job() else "then run the same command again"


def set_credentials() -> str:
    """Say where the credentials of the S3 storage come from."""
    if is_in_job():
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret of spec.storage.secretRef, or give the pods "
            f"an identity (spec.compute.serviceAccountAnnotations); {submit_again()}"
        )
    return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"


def check_credentials() -> str:
    """Say what may be wrong with refused credentials of the S3 storage."""
    if is_in_job():
        return (
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret of spec.storage.secretRef, and the clock "
            f"of the node; {submit_again()}"
        )
    return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the profile in use, and this machine's clock"


def set_hub_token() -> str:
    """Say where the token of the model hub comes from."""
    if is_in_job():
        return f"put a token with access into the Secret of spec.model.secretRef, as key token; {submit_again()}"
    return "set HF_TOKEN to a token with access"


def install_vllm() -> str:
    """Say how a run gets vLLM."""
    if is_in_job():
        return f"name an image that has it in spec.compute.image; {submit_again()}"
    return f"install it in an environment of its own, and set {VLLM_PYTHON} to the Python program of that environment"
