#!/bin/sh
# Sets up the environment: installs uv with pip if it is missing, then the locked packages. Prints the path of uv.
# A uv on PATH is used in whatever version it has. Otherwise, the version in tools/uv.txt is installed.
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' tools/uv.txt)
home="${XDG_DATA_HOME:-$HOME/.local/share}/promptintern/uv-$version"
if command -v uv >/dev/null 2>&1; then
    uv=$(command -v uv)
elif [ -x "$home/bin/uv" ]; then
    uv="$home/bin/uv"
else
    python=$(command -v python3 || true)
    [ -n "$python" ] || { echo "promptintern needs Python 3.11 or newer: install python3" >&2; exit 1; }
    if "$python" -m venv "$home" >/dev/null 2>&1; then
        "$home/bin/python" -m pip install --quiet --require-hashes --requirement tools/uv.txt >&2
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian's python3 comes without venv; a separate target folder leaves the system's packages alone.
        rm -rf "$home"
        "$python" -m pip install --quiet --target "$home" --require-hashes --requirement tools/uv.txt >&2
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        rm -rf "$home"
        { apt-get update -qq && apt-get install -y -qq python3-venv; } >&2
        "$python" -m venv "$home"
        "$home/bin/python" -m pip install --quiet --require-hashes --requirement tools/uv.txt >&2
    else
        echo "uv is missing and cannot be installed: install uv, python3-venv or python3-pip" >&2
        exit 1
    fi
    uv="$home/bin/uv"
fi
# Bytecode is compiled here, because an environment with PYTHONDONTWRITEBYTECODE would compile it for every command.
"$uv" sync --frozen --quiet --compile-bytecode >&2
echo "$uv"
