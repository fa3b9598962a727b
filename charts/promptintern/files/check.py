"""`helm test`: is a replica ready, does the API server take a job, and does the deputy policy hold?"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 60


def ready(url: str) -> None:
    """Wait until a replica says that it is ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                print(f"{url}: ready")
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: {error}; look at the logs of the operator")
        time.sleep(1)


def create(job: dict[str, object], namespace: str) -> tuple[int, str]:
    """Ask the API server to create ``job`` without keeping it: the answer's status and message."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    request = urllib.request.Request(
        f"{server}/apis/promptintern.dev/v1alpha1/namespaces/{namespace}/promptinternjobs?dryRun=All",
        data=json.dumps(job).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    try:
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["message"]


def main() -> None:
    """Check one after the other. This pod may not create pods, so that the policy has to refuse its job."""
    ready(os.environ["READY_URL"])
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
    guarded = os.environ["DEPUTY"] == "true"
    if status == 201 and not guarded:
        print("the API server takes a job")
    elif status == 403 and guarded and os.environ["POLICY"] in message:
        print(f"the API server knows the job, and its policy holds: {message}")
    else:
        expected = f"a refusal by the policy {os.environ['POLICY']}" if guarded else "that it takes the job"
        sys.exit(f"the API server answered {status} {message}; expected: {expected}")


if __name__ == "__main__":
    main()
