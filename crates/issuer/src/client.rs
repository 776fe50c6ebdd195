use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Somebody who may ask for tokens.
pub struct Client {
    /// `client_id`, not empty.
    pub id: String,
    /// `client_secret`, not empty.
    pub secret: SecretString,
    /// Go into its tokens. `sub`, `aud` and `preferred_username` replace what would be there; what
    /// the issuer has to say itself (`iss`, `iat`, `exp`, `jti`, `azp`, `client_id`, `cnf`) is not
    /// replaced.
    pub claims: Map<String, Value>,
}

/// Who may ask for tokens, by id.
#[derive(Default)]
pub(crate) struct Clients(HashMap<String, Known>);

struct Known {
    /// A digest, so that comparing says nothing of a secret's length.
    secret: [u8; 32],
    claims: Map<String, Value>,
}

impl Clients {
    /// Adds or replaces a client.
    pub(crate) fn insert(&mut self, client: Client) {
        let secret = digest(client.secret.expose_secret());
        self.0.insert(client.id, Known { secret, claims: client.claims });
    }

    /// The claims of the client, if the secret is its own.
    pub(crate) fn authenticate(&self, id: &str, secret: &str) -> Option<Map<String, Value>> {
        let known = self.0.get(id);
        // Somebody unknown takes as long as a wrong secret.
        let expected = known.map_or([0; 32], |known| known.secret);
        let is_good = bool::from(digest(secret).ct_eq(&expected));
        known.filter(|_| is_good).map(|known| known.claims.clone())
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}
