#!/bin/sh
# Headless Chromium for the report's test, where this machine may install packages; else that test says that it is missing.
set -eu
for name in chromium google-chrome chromium-browser; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null \
        || echo "chromium could not be installed; the report is not tested in a browser" >&2
fi
