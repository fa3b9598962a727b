"""Checks for `helm test` that a replica is ready, the API server accepts jobs, and the deputy policy holds."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 60


def ask(path: str, body: dict[str, object] | None = None) -> tuple[int, Any]:
    """Send a request to the API server, and return the status and the document of its response."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    request = urllib.request.Request(
        server + path,
        data=json.dumps(body).encode() if body else None,
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    try:
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def why_it_waits(pod: dict[str, Any]) -> str:
    """Return the reason why a pod is not ready, such as an image that cannot be pulled, as its status gives it."""
    status = pod.get("status", {})
    reasons = []
    for container in status.get("containerStatuses", []):
        for state in (container.get("state", {}), container.get("lastState", {})):
            for details in (state.get("waiting"), state.get("terminated")):
                if details:
                    words = [details.get("reason", ""), details.get("message", "")]
                    words += [f"exit code {details['exitCode']}"] if "exitCode" in details else []
                    reasons.append(": ".join(filter(None, words)))
    if not reasons:
        conditions = [each for each in status.get("conditions", []) if each["status"] != "True" and each.get("message")]
        reasons = [f"{each.get('reason', each['type'])}: {each['message']}" for each in conditions]
    return "; ".join(reasons) or f"phase {status.get('phase', 'unknown')}"


def operators(namespace: str) -> str:
    """Return a line for each pod of the operator, with the reason why it is not ready."""
    selector = urllib.parse.quote(os.environ["OPERATORS"])
    status, found = ask(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")
    if status != 200:
        return f"its pods cannot be listed ({status} {found['message']})"
    if not found["items"]:
        return "there are no pods of the operator; see the events of its ReplicaSet"
    return "\n".join(f"pod {pod['metadata']['name']}: {why_it_waits(pod)}" for pod in found["items"])


def wait_until_ready(url: str, namespace: str) -> None:
    """Wait until a replica reports at ``url`` that it is ready. If this takes too long, exit with the reasons."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                print(f"{url}: is ready")
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: no replica is ready after {TIMEOUT_SECONDS} s ({error})\n{operators(namespace)}")
        time.sleep(1)


def create(job: dict[str, object], namespace: str) -> tuple[int, str]:
    """Create ``job`` as a dry run, and return the status and the message of the API server's response."""
    path = f"/apis/promptintern.dev/v1alpha1/namespaces/{namespace}/promptinternjobs?dryRun=All"
    status, response = ask(path, job)
    return status, response.get("message", "")


def main() -> None:
    """Run the checks. This pod may not create pods, so the deputy policy has to refuse a job from the pod."""
    wait_until_ready(os.environ["READY_URL"], os.environ["NAMESPACE"])
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
