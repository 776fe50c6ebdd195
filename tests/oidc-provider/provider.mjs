// An OpenID provider that shares nothing with the issuer of this repository: npm's oidc-provider.
//
// Settings are one line of JSON on standard input; every member has a default:
//   port           on 127.0.0.1; 0 takes a free one
//   audience       `aud` of the tokens
//   lifetime       of the tokens, in seconds
//   clients        [{ id, secret, claims, dpop }]: claims go into the tokens, dpop: true refuses
//                  to give out tokens without a proof
//   require_nonce  DPoP proofs must carry a nonce of the server (RFC 9449, section 8)
//
// When it accepts connections it prints one line of JSON to standard output: issuer,
// token_endpoint, jwks_uri. It ends when standard input does, so it does not outlive a test that
// was killed.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

const MOUNT = '/auth/realms/opentdf'; // one client knows no other path of a token endpoint
const PATHS = {
  token: '/protocol/openid-connect/token',
  jwks: '/protocol/openid-connect/certs',
};
// Without RS256 by default, which the proofs of several clients are signed with.
const PROOF_ALGORITHMS = ['ES256', 'ES384', 'ES512', 'RS256', 'PS256'];
const SCOPES = ['openid', 'profile', 'email'];

const lines = createInterface({ input: process.stdin });
lines.once('close', () => process.exit());
const [line] = await once(lines, 'line');
const settings = {
  port: 0,
  audience: 'http://localhost:8080',
  lifetime: 300,
  clients: [{ id: 'opentdf', secret: 'secret' }],
  require_nonce: false,
  ...JSON.parse(line),
};

const server = createServer();
server.listen(settings.port, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}${MOUNT}`;

const answer = new Provider(issuer, await configuration(settings)).callback();
server.on('request', (request, response) => {
  if (!request.url.startsWith(`${MOUNT}/`)) {
    response.writeHead(404).end();
    return;
  }
  request.originalUrl = request.url;
  request.url = request.url.slice(MOUNT.length);
  answer(request, response);
});
console.log(JSON.stringify({
  issuer,
  token_endpoint: issuer + PATHS.token,
  jwks_uri: issuer + PATHS.jwks,
}));

async function configuration({ audience, lifetime, clients, require_nonce }) {
  const claims = new Map(clients.map((client) => [client.id, client.claims ?? {}]));
  const resourceServer = {
    scope: SCOPES.join(' '),
    audience,
    accessTokenFormat: 'jwt',
    accessTokenTTL: lifetime,
    jwt: { sign: { alg: 'RS256' } },
  };
  return {
    clients: clients.map((client) => ({
      client_id: client.id,
      client_secret: client.secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      dpop_bound_access_tokens: client.dpop ?? false,
    })),
    claims: { openid: ['sub'] },
    clientBasedCORS: () => true,
    cookies: { keys: [randomBytes(32).toString('hex')] },
    enabledJWA: { dPoPSigningAlgValues: PROOF_ALGORITHMS },
    extraTokenClaims: (_, token) => ({ azp: token.clientId, ...claims.get(token.clientId) }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      dPoP: {
        enabled: true,
        nonceSecret: randomBytes(32),
        requireNonce: () => require_nonce,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: () => resourceServer,
      },
    },
    jwks: { keys: [await signingKey('RS256'), await signingKey('ES256')] },
    routes: PATHS,
    scopes: SCOPES,
  };
}

async function signingKey(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: randomBytes(8).toString('hex') };
}
