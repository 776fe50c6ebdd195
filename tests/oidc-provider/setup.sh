#!/usr/bin/env bash
# Installs the OpenID provider of the tests, unless the one of the lock file is there.
# Run it then with: target/oidc-provider/node tests/oidc-provider/provider.mjs
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in node npm; do
    command -v "$tool" >/dev/null && continue
    echo "oidc-provider: $tool is missing; run tests/bin/install-deps test, or install Node.js with npm" >&2
    exit 1
done

from=tests/oidc-provider
to=target/oidc-provider
stamp=$(cat "$from"/{package.json,package-lock.json,.npmrc} | sha256sum | cut -d' ' -f1)
[ "$(cat "$to/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$to"
mkdir -p "$to"
cp "$from"/{package.json,package-lock.json,.npmrc} "$to"
(cd "$to" && npm ci --loglevel=error)

# The provider asks for Node 22, which few systems have; elsewhere than on Linux the system's has to do.
for node in "$to"/node_modules/node-linux-*/bin/node "$(command -v node)"; do
    [ -x "$node" ] || continue
    ln -s "$(realpath "$node")" "$to/node"
    break
done
echo "$stamp" >"$to/stamp"
