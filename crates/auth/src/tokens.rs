use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use kasbah_telemetry::instruments;
use serde_json::Value;

use crate::{
    IssuerSettings, Jws, Metadata, Refusal, SetupError, TokenRules, TokenVerifier, VerifiedToken,
    cache::TokenCache,
    claims,
    issuer::{Issuer, Source},
    token::fingerprint,
};

/// Longest token, in bytes.
const LONGEST: usize = 16 * 1024;

/// Verifies access tokens that are JSON Web Tokens (RFC 9068) of one or several issuers.
///
/// The token's `iss` chooses the issuer, and then only the keys, the algorithms and the audience
/// of that one count. A token must have `iss`, `aud` and `exp`, its `typ` must be that of an
/// access token or be missing, and it must be signed with an asymmetric algorithm that fits the
/// key that its `kid` names.
///
/// Keys that are fetched are fetched when they are first needed, again after
/// [`TokenRules::refresh`], and at once when a token names one that is not known, within limits.
/// A request waits for that only when it cannot be answered without. While an issuer fails, its
/// last keys are used until [`TokenRules::stale_limit`].
///
/// Must be used on a Tokio runtime with time enabled if keys are fetched.
pub struct Tokens {
    issuers: HashMap<String, Issuer>,
    skew: u64,
    cache: TokenCache,
}

/// How it stands with the keys of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerHealth {
    /// `iss`.
    pub issuer: String,
    /// Whether there are keys.
    pub keys: KeyState,
    /// Time since they were last fetched; `None` if they never were, or are in the configuration.
    pub age: Option<Duration>,
}

/// Whether the keys of an issuer can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// They are not older than [`TokenRules::refresh`], or are in the configuration.
    Current,
    /// They are older than that and still used.
    Stale,
    /// There are none, or they are older than [`TokenRules::stale_limit`].
    Missing,
}

impl Tokens {
    /// Verifies tokens of `issuers`. Asks none of them yet; see [`Tokens::prefetch`].
    ///
    /// # Errors
    /// When no token could be verified with these settings.
    pub fn new(issuers: Vec<IssuerSettings>, rules: TokenRules) -> Result<Self, SetupError> {
        if issuers.is_empty() {
            return Err(SetupError::NoIssuer);
        }
        let mut all = HashMap::new();
        for settings in issuers {
            let name = settings.issuer.clone();
            if all.contains_key(&name) {
                return Err(SetupError::DuplicateIssuer(name));
            }
            all.insert(name, Issuer::new(settings, &rules)?);
        }
        let cache = TokenCache::new(rules.cache_entries);
        Ok(Self { issuers: all, skew: rules.skew.as_secs(), cache })
    }

    /// Starts fetching keys that are missing or old; nothing waits for them.
    pub fn prefetch(&self) {
        for issuer in self.issuers.values() {
            // To look at them is what starts it.
            let _ = issuer.source.generation();
        }
    }

    /// How it stands with the keys of each issuer, in order of their names.
    pub fn issuers(&self) -> Vec<IssuerHealth> {
        let health = |(name, issuer): (&String, &Issuer)| match &issuer.source {
            Source::Given(_) => {
                IssuerHealth { issuer: name.clone(), keys: KeyState::Current, age: None }
            }
            Source::Remote(remote) => remote.health(),
        };
        let mut all: Vec<_> = self.issuers.iter().map(health).collect();
        all.sort_by(|one, other| one.issuer.cmp(&other.issuer));
        all
    }

    /// What `issuer` says of itself; only its name while it was never reached, and if its keys are in
    /// the configuration or its `jwks_uri` is. `None` if it is none of these issuers. Waits up to two
    /// seconds for an issuer whose keys are not at hand.
    pub async fn metadata(&self, issuer: &str) -> Option<Metadata> {
        match &self.issuers.get(issuer)?.source {
            Source::Given(_) => Some(Metadata::of_name(issuer)),
            Source::Remote(remote) => Some(remote.metadata().await),
        }
    }

    /// Verifies at `now`, in seconds since 1970.
    async fn verify_at(&self, token: &str, now: u64) -> Result<Arc<VerifiedToken>, Refusal> {
        if token.len() > LONGEST {
            return Err(Refusal::token("it is longer than 16 KiB"));
        }
        let fingerprint = fingerprint(token);
        let known = self.known(&fingerprint, now);
        instruments().cache_lookup("tokens", known.is_some());
        if let Some(known) = known {
            return Ok(known);
        }
        let (verified, generation) = self.verify_anew(token, fingerprint, now).await?;
        let verified = Arc::new(verified);
        self.cache.insert(Arc::clone(&verified), generation);
        Ok(verified)
    }

    /// A token that was verified with the keys that its issuer has now.
    fn known(&self, fingerprint: &[u8; 32], now: u64) -> Option<Arc<VerifiedToken>> {
        let entry = self.cache.get(fingerprint)?;
        let issuer = self.issuers.get(&entry.token.issuer)?;
        let good = claims::check_expiry(entry.token.expires, now, self.skew).is_ok()
            && issuer.source.generation() == Some(entry.generation);
        if !good {
            self.cache.remove(fingerprint);
            return None;
        }
        Some(entry.token)
    }

    async fn verify_anew(
        &self,
        token: &str,
        fingerprint: [u8; 32],
        now: u64,
    ) -> Result<(VerifiedToken, u64), Refusal> {
        if token.split('.').count() == 5 {
            return Err(Refusal::token("it is encrypted"));
        }
        let jws = Jws::parse(token).map_err(|error| Refusal::token(error.reason()))?;
        let algorithm = claims::check_header(jws.header())?;
        let name = match jws.claims().get("iss") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(Refusal::token("its iss is not a single text")),
            None => return Err(Refusal::token("it has no iss")),
        };
        let issuer = self.issuers.get(&name);
        let issuer = issuer.ok_or(Refusal::token("its issuer is not one that is configured"))?;
        let generation = issuer.verify(&jws, algorithm).await?;
        let expires = claims::check_times(jws.claims(), now, self.skew)?;
        let confirmation = claims::confirmation(jws.claims())?;
        let claims = jws.into_claims();
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let verified = VerifiedToken {
            issuer: name,
            subject,
            claims: Arc::new(claims),
            confirmation,
            expires,
            text: Arc::new(token.to_owned().into()),
            fingerprint,
        };
        Ok((verified, generation))
    }
}

#[async_trait]
impl TokenVerifier for Tokens {
    async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal> {
        self.verify_at(token, now()).await
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers = self.issuers.iter().map(|(name, issuer)| (name, &issuer.source));
        f.debug_map().entries(issuers).finish()
    }
}

/// Seconds since 1970; the end of time while the clock is set to before that, so that every token
/// looks expired.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(u64::MAX, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;
    use crate::KeySource;

    const NOW: u64 = 1_000_000_000;

    fn set_up() -> (Tokens, impl Fn(Value) -> String) {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk =
            json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) });
        let issuer = IssuerSettings {
            issuer: "a".to_owned(),
            audience: "b".to_owned(),
            algorithms: Vec::new(),
            keys: KeySource::Jwks(json!({ "keys": [jwk] }).to_string()),
        };
        let tokens = Tokens::new(vec![issuer], TokenRules::default()).unwrap();
        let sign = move |claims: Value| {
            let header = encode(br#"{"alg":"EdDSA"}"#);
            let signed = format!("{header}.{}", encode(claims.to_string().as_bytes()));
            format!("{signed}.{}", encode(pair.sign(signed.as_bytes()).as_ref()))
        };
        (tokens, sign)
    }

    async fn reason(tokens: &Tokens, token: &str, now: u64) -> Option<String> {
        tokens.verify_at(token, now).await.err().map(|refusal| refusal.reason.into_owned())
    }

    #[tokio::test]
    async fn a_remembered_token_expires() {
        let (tokens, sign) = set_up();
        let token = sign(json!({ "iss": "a", "aud": "b", "exp": NOW }));
        let first = tokens.verify_at(&token, NOW).await.unwrap();
        let again = tokens.verify_at(&token, NOW + 59).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again), "it was not remembered");
        assert_eq!(reason(&tokens, &token, NOW + 60).await.as_deref(), Some("it has expired"));
        assert!(tokens.known(&first.fingerprint, NOW).is_none());
    }

    #[tokio::test]
    async fn clocks_may_differ_by_the_skew() {
        let (tokens, sign) = set_up();
        let claims = |name: &str| {
            let mut claims = json!({ "iss": "a", "aud": "b", "exp": NOW + 9000 });
            claims[name] = json!(NOW);
            sign(claims)
        };
        for (name, text) in [("nbf", "it is not valid yet"), ("iat", "it was issued in the future")]
        {
            let early = reason(&tokens, &claims(name), NOW - 61).await;
            assert_eq!(early.as_deref(), Some(text));
            assert_eq!(reason(&tokens, &claims(name), NOW - 60).await, None);
        }
    }

    #[tokio::test]
    async fn with_a_broken_clock_every_token_has_expired() {
        let (tokens, sign) = set_up();
        let token = sign(json!({ "iss": "a", "aud": "b", "exp": 253_402_300_799_u64 }));
        assert_eq!(reason(&tokens, &token, u64::MAX).await.as_deref(), Some("it has expired"));
    }
}
