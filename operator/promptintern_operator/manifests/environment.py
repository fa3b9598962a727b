"""The environment variables of the containers: those of the operator, the chart and the job, and the credentials."""

from promptintern_api.contract import ENV_JOB, ENV_STORAGE_CA

from promptintern_operator.manifests.config import CA_FOLDER, SCRATCH, ResolvedJob
from promptintern_operator.manifests.meta import Manifest
from promptintern_operator.settings import Settings

CA_KEY = "ca.crt"
"""The key of the CA certificate in the storage's Secret, as in Secrets of type kubernetes.io/tls."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY, _CHOSEN = "no_proxy", "PROMPTINTERN_NO_PROXY"
"""The variable with the hosts that are reached without a proxy, and the one that keeps what the author of a ConfigMap
chose for it.
"""
_DIRECT = ("localhost", "127.0.0.1", "::1", "$(KUBERNETES_SERVICE_HOST)")
"""The hosts that are never reached through a proxy: the pod itself and the API server."""


def variables(job: ResolvedJob, settings: Settings, more: dict[str, str] | None = None) -> list[Manifest]:
    """Return the environment variables of a container, without the credentials; each name occurs once.

    The variables of the operator and ``more`` precede those of the job, which precede those of the chart.
    """
    own = {name: {"value": value} for name, value in (_own(job) | (more or {})).items()}
    # The kubelet would replace "$(NAME)" by the value of another variable.
    chosen = {variable.name: {"value": variable.value.replace("$", "$$")} for variable in job.spec.compute.env or ()}
    defaults = {
        variable.name: variable.model_dump(by_alias=True, exclude_none=True, exclude={"name"})
        for variable in settings.pods.env
    }
    # Programs read proxies in lower case and in upper case, so a job's choice replaces both spellings of the chart's.
    spelled = {name.lower() for name in chosen if name.lower() in (*_PROXIES, _NO_PROXY)}
    kept = {name: source for name, source in defaults.items() if name.lower() not in spelled}
    merged = _without_proxy(kept | chosen) | own
    return [{"name": name, **source} for name, source in merged.items()]


def _own(job: ResolvedJob) -> dict[str, str]:
    cache = job.spec.compute.model_cache
    writable = cache is not None and not cache.read_only
    authority = {ENV_STORAGE_CA: f"{CA_FOLDER}/{CA_KEY}"} if storage_secret(job) else {}
    return {
        "HOME": f"{SCRATCH}/home",
        "USER": "promptintern",  # if the cluster chooses the user, the image has no name for it
        "HF_HOME": cache.mount_path if cache is not None and writable else f"{SCRATCH}/huggingface",
        "PYTHONUNBUFFERED": "1",
        ENV_JOB: job.metadata.name,
        "RAY_USAGE_STATS_ENABLED": "0",
    } | authority


def _without_proxy(sources: dict[str, Manifest]) -> dict[str, Manifest]:
    """Return ``sources`` so that, if they name a proxy, no connection to the pod itself or the API server uses it."""
    if not any(name.lower() in _PROXIES for name in sources):
        return sources
    # Programs read the variable in lower case first.
    current = sources.get(_NO_PROXY) or sources.get(_NO_PROXY.upper())
    rest = {name: source for name, source in sources.items() if name.lower() != _NO_PROXY}
    if current is not None and "value" not in current:
        rest[_CHOSEN] = current
        current = {"value": f"$({_CHOSEN})"}
    hosts = ",".join(filter(None, [(current or {}).get("value"), *_DIRECT]))
    return rest | {name: {"value": hosts} for name in (_NO_PROXY, _NO_PROXY.upper())}


def storage_secret(job: ResolvedJob) -> str | None:
    """Return the name of the Secret with the credentials of the job's storage, or None if it has none."""
    storage = job.spec.storage
    return storage.secret_ref.name if storage is not None and storage.secret_ref is not None else None


def credentials(job: ResolvedJob) -> list[Manifest]:
    """Return the environment variables from the Secrets of the job, whose values the operator never sees."""
    found: list[Manifest] = []
    secret, model = storage_secret(job), job.spec.model
    if secret is not None:
        for key, optional in (
            ("AWS_ACCESS_KEY_ID", False),
            ("AWS_SECRET_ACCESS_KEY", False),
            ("AWS_SESSION_TOKEN", True),
        ):
            found.append(_from_secret(key, secret, key, optional=optional))
    if model.secret_ref is not None:
        found.append(_from_secret("HF_TOKEN", model.secret_ref.name, "token"))
    return found


def _from_secret(variable: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    source: Manifest = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": variable, "valueFrom": {"secretKeyRef": source}}
