// Encrypts and decrypts with `@opentdf/client`, against a running Kasbah, by the platform's old REST
// routes.
//
//   node client.mjs encrypt URL CREDENTIALS TDF  < plaintext
//   node client.mjs decrypt URL CREDENTIALS TDF  > plaintext

import { readFileSync, writeFileSync } from 'node:fs';

// It is made for browsers: without a window it cannot even be imported. What it says goes to
// standard error, so that standard output is the plaintext and nothing else.
globalThis.window = globalThis;
globalThis.isSecureContext = true;
console.log = console.info = console.error;
const { AuthProviders, TDF3Client } = await import('@opentdf/client');

const [verb, url, credentials, tdf] = process.argv.slice(2);

const known = await (await fetch(`${url}/.well-known/opentdf-configuration`)).json();
const { clientId, clientSecret } = JSON.parse(readFileSync(credentials, 'utf8'));
const authProvider = await AuthProviders.clientSecretAuthProvider({
  exchange: 'client',
  clientId,
  clientSecret,
  oidcOrigin: known.platform_issuer,
});
const client = new TDF3Client({ authProvider, kasEndpoint: `${url}/kas` });

const verbs = {
  async encrypt() {
    const source = new Blob([readFileSync(0)]).stream();
    const encrypted = await client.encrypt({ offline: true, source });
    writeFileSync(tdf, await encrypted.toBuffer());
  },
  async decrypt() {
    const location = new Uint8Array(readFileSync(tdf));
    const plaintext = await client.decrypt({ source: { type: 'buffer', location } });
    process.stdout.write(await plaintext.toBuffer());
  },
};
await verbs[verb]();
