use std::{fmt, sync::Arc};

use crate::{
    Clock, DpopSettings, DpopSettingsError, Proof, ProofKey, Refusal, RefusalKind, ReplayStore,
    VerifiedToken, certificate, dpop::Dpop, system_clock,
};

const UNBOUND: &str = "the token is bound to no key, so no proof can be one for it";
const BY_BEARER: &str = "the token is bound to a key and came under the scheme Bearer";

/// Says how well the sender of a verified token proved that it is theirs.
pub struct Proofs {
    dpop: Dpop,
    enforce: bool,
    bound_by_bearer: bool,
    clock: Clock,
}

/// What came with an access token. It has no `Debug`, as it holds the token.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The scheme of the `authorization` header.
    pub scheme: Scheme,
    /// The values of all `dpop` headers.
    pub proofs: &'a [&'a str],
    /// The HTTP method, as sent.
    pub method: &'a str,
    /// The path of the request, as sent, without query.
    pub path: &'a str,
    /// The text behind the scheme.
    pub access_token: &'a str,
    /// The client certificate of the connection, in DER, verified; the client's own, without those
    /// of authorities.
    pub certificate: Option<&'a [u8]>,
}

/// A scheme of the `authorization` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `Bearer` (RFC 6750).
    Bearer,
    /// `DPoP` (RFC 9449).
    Dpop,
}

/// What was proven.
#[derive(Debug)]
pub struct Proven {
    /// How well.
    pub proof: Proof,
    /// The key that signed the proof of possession, if there had to be one.
    pub key: Option<Arc<ProofKey>>,
    /// The `DPoP-Nonce` to send with the answer, if the next proof needs one.
    pub nonce: Option<String>,
}

impl Proofs {
    /// Checks by `settings`, and remembers proofs in `replay`.
    ///
    /// # Errors
    /// When `settings` are not sound.
    pub fn new(
        settings: DpopSettings,
        replay: Arc<dyn ReplayStore>,
    ) -> Result<Self, DpopSettingsError> {
        Ok(Self {
            enforce: settings.enforce,
            bound_by_bearer: settings.bound_by_bearer,
            dpop: Dpop::new(settings, replay)?,
            clock: system_clock(),
        })
    }

    /// Tells the time by `clock`.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// How well the sender of `token` proved that it is theirs.
    ///
    /// A token has to be proven by each key that it names, and by nothing else: proofs that come
    /// with a token that names no key are not looked at. If proofs are enforced, a token has to
    /// name one.
    ///
    /// # Errors
    /// When a proof is missing or not good, or nobody knows whether it was used before.
    pub async fn check(
        &self,
        presented: Presented<'_>,
        token: &VerifiedToken,
    ) -> Result<Proven, Refusal> {
        let bound = token.confirmation.as_ref();
        let certificate = bound.and_then(|bound| bound.certificate.as_deref());
        let jkt = bound.and_then(|bound| bound.jkt.as_deref());
        if self.enforce && certificate.is_none() && jkt.is_none() {
            return Err(Refusal::proof(UNBOUND));
        }
        if let Some(certificate) = certificate {
            certificate::check(certificate, presented.certificate)?;
        }
        let now = (self.clock)();
        let key = match jkt {
            Some(jkt) => Some(self.key(&presented, jkt, now).await?),
            None => None,
        };
        let proof = match (certificate, &key) {
            (Some(_), _) => Proof::Mtls,
            (None, Some(_)) => Proof::Dpop,
            (None, None) => Proof::Bearer,
        };
        let nonce = key.as_ref().and_then(|_| self.dpop.nonce(now));
        Ok(Proven { proof, key, nonce })
    }

    async fn key(
        &self,
        presented: &Presented<'_>,
        jkt: &str,
        now: u64,
    ) -> Result<Arc<ProofKey>, Refusal> {
        if presented.scheme == Scheme::Bearer {
            if !self.bound_by_bearer {
                return Err(Refusal::proof(BY_BEARER));
            }
            tracing::debug!("{BY_BEARER}");
        }
        self.dpop.check(presented, jkt, now).await.map(Arc::new)
    }

    /// Names, in lower case, and values of the headers that tell a client about `refusal` (RFC
    /// 9449, sections 7.1 and 9); none if it is about something else.
    pub fn challenge(&self, refusal: &Refusal) -> Vec<(&'static str, String)> {
        let error = match refusal.kind {
            RefusalKind::Nonce => "use_dpop_nonce",
            RefusalKind::Proof => "invalid_dpop_proof",
            _ => return Vec::new(),
        };
        let challenge = ("www-authenticate", format!("DPoP error=\"{error}\""));
        let nonce = self.dpop.nonce((self.clock)()).map(|nonce| ("dpop-nonce", nonce));
        [challenge].into_iter().chain(nonce).collect()
    }
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs")
            .field("dpop", &self.dpop)
            .field("enforce", &self.enforce)
            .finish_non_exhaustive()
    }
}
