#!/bin/sh
# Installs the trainer's libraries, as uv.lock pins them, into $UV_PROJECT_ENVIRONMENT, for trainer/Dockerfile.
#   tools/libraries.sh INDEX [OPTION OF uv ...]
# INDEX is empty for the build of torch that uv.lock names, which contains CUDA. Otherwise, torch is the locked version
# from INDEX, and the libraries that only the locked build needs (CUDA, Triton) are left out.
# Also writes the list of the libraries to /usr/share/doc/promptintern/sbom.cdx.json, or to $SBOM.
set -eu
cd "$(dirname "$0")/.."
index=$1
shift
sbom=${SBOM:-/usr/share/doc/promptintern/sbom.cdx.json}
mkdir -p "$(dirname "$sbom")"

if [ -z "$index" ]; then
    "$UV" sync "$@" --frozen --no-dev --no-install-workspace --package promptintern
    exec tools/sbom.sh promptintern >"$sbom"
fi

locked() {
    "$UV" export --quiet --frozen --no-dev --no-emit-workspace --package promptintern "$@"
}
folder=$(mktemp -d)
locked --no-hashes >"$folder/versions.txt"
locked --prune torch >"$folder/requirements.txt"
echo torch >>"$folder/requirements.txt"
"$UV" venv --quiet "$UV_PROJECT_ENVIRONMENT"
# All versions are pinned, so the order of the indexes decides nothing but the build of torch: 2.0+cpu is newer than 2.0.
"$UV" pip install "$@" --python "$UV_PROJECT_ENVIRONMENT/bin/python" --requirements "$folder/requirements.txt" \
    --constraints "$folder/versions.txt" --index "$index" --index-strategy unsafe-best-match
rm -r "$folder"
tools/sbom.sh promptintern --prune torch >"$sbom"
