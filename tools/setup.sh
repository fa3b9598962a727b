#!/bin/sh
# Sets up the environment: installs uv with pip if it is missing, then the locked packages. Prints the path of uv.
set -eu
cd "$(dirname "$0")/.."

home="${XDG_DATA_HOME:-$HOME/.local/share}/promptintern"
if command -v uv >/dev/null 2>&1; then
    uv=$(command -v uv)
elif [ -x "$home/uv/bin/uv" ]; then
    uv="$home/uv/bin/uv"
else
    python=$(command -v python3 || true)
    [ -n "$python" ] || { echo "promptintern needs Python 3.11 or newer: install python3" >&2; exit 1; }
    if "$python" -m venv "$home/uv" >/dev/null 2>&1; then
        "$home/uv/bin/python" -m pip install --quiet uv >&2
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian's python3 comes without venv; a separate target folder leaves the system's packages alone.
        rm -rf "$home/uv"
        "$python" -m pip install --quiet --target "$home/uv" uv >&2
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        rm -rf "$home/uv"
        { apt-get update -qq && apt-get install -y -qq python3-venv; } >&2
        "$python" -m venv "$home/uv"
        "$home/uv/bin/python" -m pip install --quiet uv >&2
    else
        echo "uv is missing and cannot be installed: install uv, python3-venv or python3-pip" >&2
        exit 1
    fi
    uv="$home/uv/bin/uv"
fi
"$uv" sync --frozen --quiet >&2
echo "$uv"
