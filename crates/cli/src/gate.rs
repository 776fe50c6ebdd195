//! The gate of a server, from its configuration.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use kasbah_auth::{DpopSettings, Gate, MemoryReplay, Proofs, ReplayStore, RolePolicy};
use kasbah_registry::{Database, DatabaseReplay};
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};

use crate::{
    config::{Auth, Roles},
    exit::{Exit, Failure, OrExit},
};

/// Shortest secret that nonces are made with, in bytes.
const NONCE_SECRET_BYTES: usize = 32;

/// Builds the gate; `database` is there for nodes that share which proofs were used.
pub(crate) async fn gate(auth: Auth, database: Option<&Database>) -> Result<Gate, Failure> {
    let replay: Arc<dyn ReplayStore> = match (auth.dpop.replay, database) {
        (replay, Some(database)) if replay.in_database => {
            let (entries, per_key) = (replay.entries as u64, replay.per_key as u64);
            Arc::new(DatabaseReplay::new(database.clone()).with_limits(entries, per_key))
        }
        (replay, None) if replay.in_database => {
            return Err(Failure::usage(
                "auth.dpop.replay: `database` needs `kas.key_index: registry`; use `node`",
            ));
        }
        (replay, _) => Arc::new(MemoryReplay::new(replay.entries, replay.per_key)),
    };
    let nonce_secret = match &auth.dpop.nonce_secret {
        Some((name, source)) => {
            let text = source.read().with_context(|| format!("secrets.{name}"));
            let text = text.or_exit(Exit::Usage)?;
            if text.expose_secret().len() < NONCE_SECRET_BYTES {
                return Err(Failure::usage(format!(
                    "secrets.{name}: expected at least {NONCE_SECRET_BYTES} characters, for example \
                     of `openssl rand -hex 32`"
                )));
            }
            let digest: [u8; 32] = Sha256::digest(text.expose_secret()).into();
            Some(SecretBox::new(Box::new(digest)))
        }
        None => None,
    };
    let settings = DpopSettings { nonce_secret, ..auth.dpop.settings };
    let proofs = Proofs::new(settings, replay).context("auth.dpop").or_exit(Exit::Usage)?;
    let roles = match &auth.roles {
        Roles::BuiltIn(more) => RolePolicy::built_in(more).await,
        Roles::Replaced(csv) => RolePolicy::replaced(csv).await,
    };
    let roles =
        roles.map_err(|error| Failure::new(Exit::Usage, anyhow!(error).context("auth.roles")))?;
    Ok(Gate::new(auth.tokens, proofs, roles)
        .with_claims(auth.claims)
        .without_roles_of(auth.without_roles)
        .with_min_proof(auth.min_proof))
}
