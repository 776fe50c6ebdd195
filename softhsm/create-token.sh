#!/usr/bin/env bash
# Makes a SoftHSM token labelled `kas` in a directory of its own, with random PINs.
set -euo pipefail
# shellcheck source=softhsm/common.sh
. "$(dirname "$0")/common.sh"

dir=${1:?usage: create-token.sh DIR}
command -v softhsm2-util >/dev/null || {
    echo "create-token: softhsm2-util not found: run softhsm/install.sh" >&2
    exit 1
}
if [ -e "$dir/softhsm2.conf" ]; then
    echo "create-token: $dir already holds a token" >&2
    exit 1
fi

umask 077
mkdir -p "$dir/tokens"
dir=$(cd "$dir" && pwd)
cat >"$dir/softhsm2.conf" <<EOF
directories.tokendir = $dir/tokens
objectstore.backend = file
log.level = ERROR
EOF
export SOFTHSM2_CONF="$dir/softhsm2.conf"

# Eight digits suit the PIN limits of every module.
random_pin() { od -An -N4 -tu4 /dev/urandom | awk '{ printf "%08d", $1 % 100000000 }'; }
random_pin >"$dir/so-pin"
random_pin >"$dir/pin"

# softhsm2-util takes PINs only as arguments or from a terminal; on a shared machine, where others
# see the process list, use `kasbah hsm init`, which reads files.
softhsm2-util --init-token --free --label kas \
    --so-pin "$(cat "$dir/so-pin")" --pin "$(cat "$dir/pin")" >/dev/null

echo "token kas is in $dir; user PIN in $dir/pin, security officer's PIN in $dir/so-pin"
echo "export SOFTHSM2_CONF=$SOFTHSM2_CONF"
