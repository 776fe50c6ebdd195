#!/usr/bin/env bash
# Makes hardened keys with `kasbah hsm`, imports one, and lists the token.
set -euo pipefail
# shellcheck source=softhsm/common.sh
. "$(dirname "$0")/common.sh"

dir=${1:?usage: provision-with-kasbah.sh DIR}
use_token "$dir"
module=$(softhsm_module)
kasbah=${KASBAH:-kasbah}
command -v "$kasbah" >/dev/null || {
    echo "provision-with-kasbah: $kasbah not found: build it, or set KASBAH to its path" >&2
    exit 1
}

hsm() {
    local command=$1
    shift
    "$kasbah" hsm "$command" --module "$module" --token kas --pin-file "$dir/pin" "$@"
}

hsm generate --kid r1 --algorithm rsa:2048
hsm generate --kid e1 --algorithm ec:secp256r1

# A key that exists already: the token guards it from here on, but every copy of the file remains.
umask 077
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/old.pem" 2>/dev/null
hsm import --kid old1 --private-key-file "$dir/old.pem"
rm "$dir/old.pem"

hsm public --key "pkcs11:object=r1"
hsm list
