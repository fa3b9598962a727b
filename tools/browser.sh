#!/bin/sh
# Installs Chromium for the tests of the report if this machine can install packages; otherwise those tests are skipped.
set -eu
for name in chromium google-chrome chromium-browser; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null \
        || echo "chromium could not be installed; tests of the report in a browser will be skipped" >&2
fi
