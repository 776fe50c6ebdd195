#!/usr/bin/env bash
# Makes a key with OpenSC's pkcs11-tool and lists the token, keys made by Kasbah included.
#
# The key lacks lines of the hardened template that pkcs11-tool cannot set; see README.md.
set -euo pipefail
# shellcheck source=softhsm/common.sh
. "$(dirname "$0")/common.sh"

dir=${1:?usage: provision-with-pkcs11-tool.sh DIR}
use_token "$dir"
module=$(softhsm_module)
command -v pkcs11-tool >/dev/null || {
    echo "provision-with-pkcs11-tool: pkcs11-tool not found: run softhsm/install.sh" >&2
    exit 1
}

# The PIN goes through the environment, which other users of the machine cannot read.
PIN=$(cat "$dir/pin")
export PIN

tool() { pkcs11-tool --module "$module" --token-label kas --login --pin env:PIN "$@"; }

tool --keypairgen --key-type rsa:2048 --label p1 --id "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" \
    --usage-wrap --allowed-mechanisms RSA-PKCS-OAEP
tool --list-objects
