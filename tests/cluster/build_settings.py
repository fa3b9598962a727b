"""Settings of this machine that an image build needs. They are mounted for the build and are not part of the image."""

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_PROXY")
_UV_INDEX = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")


@contextlib.contextmanager
def volumes() -> Iterator[list[str]]:
    """Arguments for ``buildah bud --volume``: trusted authorities, package indexes and uv's cache."""
    with tempfile.TemporaryDirectory(prefix="build-settings-") as name:
        folder = Path(name)
        (folder / "pip.conf").write_text(pip_settings(os.environ))
        (folder / "uv.toml").write_text(uv_settings(os.environ))
        mounts = [f"{folder / 'pip.conf'}:/etc/pip.conf:ro", f"{folder / 'uv.toml'}:/etc/uv/uv.toml:ro"]
        bundle = ssl.get_default_verify_paths().cafile or _BUNDLE
        if Path(bundle).exists():
            mounts.append(f"{Path(bundle).resolve()}:{_BUNDLE}:ro")
        downloads = Path(os.environ.get("UV_CACHE_DIR") or _cache() / "uv")
        downloads.mkdir(parents=True, exist_ok=True)
        mounts.append(f"{downloads}:/root/.cache/uv:rw")
        yield mounts


def pip_settings(environment: Mapping[str, str]) -> str:
    """The text of a pip configuration file with the settings of pip's environment variables."""
    lines = ["[global]", f"cert = {_BUNDLE}", "disable-pip-version-check = true", "root-user-action = ignore"]
    settings = {
        name.removeprefix("PIP_").lower().replace("_", "-"): environment[name] for name in _PIP if name in environment
    }
    lines += [f"{name} = {value}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def uv_settings(environment: Mapping[str, str]) -> str:
    """The text of a uv configuration file: the system's authorities, and the index of uv's environment variables."""
    lines = ["native-tls = true"]
    indexes = [environment[name] for name in _UV_INDEX if name in environment]
    if indexes:
        lines += ["[[index]]", f'url = "{indexes[0]}"', "default = true"]
    return "\n".join(lines) + "\n"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
