# What the scripts share; sourced, not run.
# shellcheck shell=bash

# Prints the path of the SoftHSM module.
softhsm_module() {
    local path
    for path in \
        "${KASBAH_SOFTHSM_MODULE:-}" \
        /usr/lib/softhsm/libsofthsm2.so \
        /usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so \
        /usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so \
        /usr/lib64/softhsm/libsofthsm2.so \
        /opt/homebrew/lib/softhsm/libsofthsm2.so \
        /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -f "$path" ]; then
            echo "$path"
            return
        fi
    done
    echo "SoftHSM is not installed: run softhsm/install.sh or set KASBAH_SOFTHSM_MODULE" >&2
    return 1
}

# Checks that $1 was made by create-token.sh and points SoftHSM at it.
use_token() {
    local dir=$1
    if [ ! -f "$dir/softhsm2.conf" ] || [ ! -f "$dir/pin" ]; then
        echo "$dir holds no token: run softhsm/create-token.sh $dir" >&2
        return 1
    fi
    dir=$(cd "$dir" && pwd)
    export SOFTHSM2_CONF="$dir/softhsm2.conf"
}
