#!/usr/bin/env bash
# Installs SoftHSM and OpenSC (for pkcs11-tool).
set -euo pipefail

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if command -v apt-get >/dev/null; then
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends softhsm2 opensc
elif command -v dnf >/dev/null; then
    as_root dnf install -y softhsm opensc
elif command -v brew >/dev/null; then
    brew install softhsm opensc
else
    echo "install: neither apt-get, dnf nor brew found; install SoftHSM 2.6 or later and OpenSC" >&2
    exit 1
fi

# shellcheck source=softhsm/common.sh
. "$(dirname "$0")/common.sh"
echo "SoftHSM is installed: $(softhsm_module)"
