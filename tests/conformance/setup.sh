#!/usr/bin/env bash
# Builds the official conformance suite of Connect, unless the one that go.mod names is there.
set -euo pipefail
cd "$(dirname "$0")"

to=../../target/conformance
stamp=$(cat go.mod go.sum | sha256sum | cut -d' ' -f1)
[ "$(cat "$to/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$to"
mkdir -p "$to"
GOFLAGS="-mod=readonly -buildvcs=false" go build -o "$to/connectconformance" connectrpc.com/conformance/cmd/connectconformance
echo "$stamp" >"$to/stamp"
