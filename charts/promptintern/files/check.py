"""Checks for `helm test` that a replica is ready, the API server accepts jobs, and the deputy policy holds."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 60


def wait_until_ready(url: str) -> None:
    """Wait until a replica reports at ``url`` that it is ready, and exit if this takes too long."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                print(f"{url}: is ready")
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: no replica is ready after {TIMEOUT_SECONDS} s ({error}); see the operator's logs")
        time.sleep(1)


def create(job: dict[str, object], namespace: str) -> tuple[int, str]:
    """Create ``job`` as a dry run, and return the status and the message of the API server's response."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    request = urllib.request.Request(
        f"{server}/apis/promptintern.dev/v1alpha1/namespaces/{namespace}/promptinternjobs?dryRun=All",
        data=json.dumps(job).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    try:
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["message"]


def main() -> None:
    """Run the checks. This pod may not create pods, so the deputy policy has to refuse a job from the pod."""
    wait_until_ready(os.environ["READY_URL"])
    job = {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": "helm-test"},
        "spec": {
            "model": {"uri": "sample://formulas"},
            "data": {
                "train": {"uri": "sample://formulas/train?world=1&rows=16"},
                "eval": {"uri": "sample://formulas/eval?world=1&rows=16"},
            },
            "prompt": {"template": "{examples}{query}"},
        },
    }
    status, message = create(job, os.environ["NAMESPACE"])
    is_guarded = os.environ["DEPUTY"] == "true"
    if status == 201 and not is_guarded:
        print("the API server accepts a job")
    elif status == 403 and is_guarded and os.environ["POLICY"] in message:
        print(f"the deputy policy refuses the job as it should: {message}")
    else:
        expected = f"a refusal by the policy {os.environ['POLICY']}" if is_guarded else "status 201"
        sys.exit(f"the API server returned {status} {message}; expected {expected}")


if __name__ == "__main__":
    main()
