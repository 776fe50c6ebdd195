#!/usr/bin/env bash
# Installs and builds the clients of the tier `interop`, unless those of the lock files are there.
set -euo pipefail
cd "$(dirname "$0")/../.."

from=tests/interop
to=target/interop

# Whether what is in $to/$1 was made of these files.
is_made() {
    stamp=$(cat "${@:2}" | sha256sum | cut -d' ' -f1)
    [ "$(cat "$to/$1/stamp" 2>/dev/null)" = "$stamp" ]
}

if ! command -v chromium chromium-browser google-chrome >/dev/null; then
    echo "interop: there is no Chromium; run tests/bin/install-deps test, or install it" >&2
    exit 1
fi

# Go: the platform's SDK.
if ! is_made go "$from"/go/{go.mod,go.sum,main.go}; then
    rm -rf "$to/go" && mkdir -p "$to/go"
    (cd "$from/go" && GOFLAGS="-mod=readonly -buildvcs=false" go build -o "../../../$to/go/client" .)
    echo "$stamp" >"$to/go/stamp"
fi

# JavaScript: on the Node.js of the OpenID provider.
if ! is_made js "$from"/js/{package.json,package-lock.json,.npmrc,client.mjs}; then
    rm -rf "$to/js" && mkdir -p "$to/js"
    cp "$from"/js/{package.json,package-lock.json,.npmrc,client.mjs} "$to/js"
    (cd "$to/js" && npm ci --loglevel=error)
    echo "$stamp" >"$to/js/stamp"
fi

# Rust: the crate with dependencies of its own, which cargo knows whether to build.
cargo build --quiet --locked --manifest-path "$from/rust/Cargo.toml" --target-dir target/interop-rust
