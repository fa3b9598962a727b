#!/bin/sh
# Builds the images of the operator and the trainer on a base image with a fixed digest, and pushes them.
#   tools/images.sh resolve                  ask the registry for the digest of the base image; write it to images.lock
#   tools/images.sh check                    fail unless images.lock has a digest for the base image
#   tools/images.sh publish REGISTRY [TAG]   check, build and push; print the chart's values for these images
# TAG is the chart's appVersion by default. Environment variables:
#   TORCH_INDEX   index with another build of torch, such as https://download.pytorch.org/whl/cpu. The trainer's image
#                 then has a tag that ends with the last part of the index (-cpu), and no CUDA.
#   PLATFORM      platform of the cluster's nodes, such as linux/amd64, if it is not that of this machine
set -eu
cd "$(dirname "$0")/.."
lock=images.lock

fail() {
    echo "tools/images.sh: $1" >&2
    exit 1
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "tools/images.sh" >&2
    exit 2
}

# Prints the base image as images.lock names it.
base() {
    lines=$(grep -v -e '^#' -e '^[[:space:]]*$' "$lock") || fail "$lock names no base image"
    [ "$(echo "$lines" | wc -l)" = 1 ] || fail "$lock names several base images; both Dockerfiles have the same one"
    echo "$lines"
}

# Prints the digest of an image in a registry: that of the index, if the image is for several platforms.
digest() {
    if command -v crane >/dev/null 2>&1; then
        found=$(crane digest "$1")
    elif command -v skopeo >/dev/null 2>&1; then
        found=$(skopeo inspect --format '{{.Digest}}' "docker://$1")
    elif docker buildx version >/dev/null 2>&1; then
        found=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1")
    else
        fail "crane, skopeo or docker buildx is needed to ask for the digest of $1; install one of them"
    fi || fail "the digest of $1 cannot be read; see the message above"
    is_digest "$found" || fail "the digest of $1 is '$found', which is not a SHA-256; nothing was recorded"
    echo "$found"
}

is_digest() {
    echo "$1" | grep -qxE 'sha256:[0-9a-f]{64}'
}

check() {
    image=$(base) || exit 1
    case $image in
        *@*) is_digest "${image#*@}" || fail "$lock: ${image#*@} is not a digest; run tools/images.sh resolve" ;;
        *) fail "$lock has no digest for $image; run tools/images.sh resolve, and commit the file" ;;
    esac
}

resolve() {
    image=$(base) || exit 1
    image=${image%@*}
    found=$(digest "$image") || exit 1
    comments=$(grep '^#' "$lock" || true)
    printf '%s\n%s@%s\n' "$comments" "$image" "$found" >"$lock.new"
    mv "$lock.new" "$lock"
    echo "$lock: $image@$found" >&2
}

engine() {
    if docker info >/dev/null 2>&1; then
        echo docker
    elif command -v podman >/dev/null 2>&1; then
        echo podman
    elif command -v buildah >/dev/null 2>&1; then
        echo buildah
    else
        fail "neither a running Docker, nor podman, nor buildah is here to build images; install or start one of them"
    fi
}

# Builds and pushes the image NAME under a tag, and prints its reference with the digest.
build() {
    name=$1 reference=$2
    shift 2
    echo "building $reference ..." >&2
    "$engine" build --file "$name/Dockerfile" --tag "$reference" --build-arg "BASE=$base" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
        --label "org.opencontainers.image.base.name=${base%@*}" \
        --label "org.opencontainers.image.base.digest=${base#*@}" "$@" . >&2 || fail "$reference was not built"
    "$engine" push "$reference" >&2 || fail "$reference was not pushed; is this machine logged in to the registry?"
    pushed=$(digest "$reference") || exit 1
    echo "$reference@$pushed"
}

publish() {
    registry=${1%/}
    version=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' charts/promptintern/Chart.yaml)
    tag=${2:-$version}
    check
    base=$(base) || exit 1
    engine=$(engine) || exit 1
    revision=$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)
    set --
    [ -z "${PLATFORM:-}" ] || set -- --platform "$PLATFORM"
    operator=$(build operator "$registry/promptintern/operator:$tag" "$@") || exit 1
    variant=""
    if [ -n "${TORCH_INDEX:-}" ]; then
        variant=-$(basename "$TORCH_INDEX")
        set -- "$@" --build-arg "TORCH_INDEX=$TORCH_INDEX"
    fi
    trainer=$(build trainer "$registry/promptintern/trainer:$tag$variant" "$@") || exit 1
    echo "both images are pushed; install the chart with these values:" >&2
    cat <<YAML
image:
  repository: $registry/promptintern/operator
  tag: ${operator#"$registry/promptintern/operator:"}
trainer:
  image: $trainer
YAML
}

case "${1:-} $#" in
    "resolve 1") resolve ;;
    "check 1") check ;;
    "publish 2" | "publish 3") shift && publish "$@" ;;
    *) usage ;;
esac
