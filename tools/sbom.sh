#!/bin/sh
# Prints a software bill of materials in the format CycloneDX: the locked packages of a package of the workspace.
#   tools/sbom.sh promptintern-operator [OPTION OF uv export ...]
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: tools/sbom.sh PACKAGE (promptintern or promptintern-operator)" >&2; exit 2; }
package=$1
shift
exec "${UV:-uv}" export --quiet --preview-features sbom-export --format cyclonedx1.5 --frozen --no-dev --package "$package" "$@"
