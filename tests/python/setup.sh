#!/usr/bin/env bash
# Makes the virtual environment of the Python client, unless one that fits is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=target/python-venv
stamp=$(sha256sum tests/python/requirements.txt | cut -d' ' -f1)
[ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet -r tests/python/requirements.txt
echo "$stamp" >"$venv/stamp"
