use std::{borrow::Cow, collections::BTreeSet, error::Error as StdError, fmt, sync::Arc};

use kasbah_telemetry::instruments;
use secrecy::ExposeSecret;
use tonic::{
    Code, Status,
    codegen::http::{
        Extensions, HeaderMap, HeaderName, HeaderValue, Method, header::RETRY_AFTER, request::Parts,
    },
    metadata::MetadataMap,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use crate::{
    Caller, ClaimNames, DevTokens, DpopSettings, MemoryReplay, Presented, Proof, Proofs, RateLimit,
    Refusal, RefusalKind, RolePolicy, Scheme, TokenVerifier, VerifiedToken, roles::claim,
};

/// Calls that need no token.
const PUBLIC: [&str; 7] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/kas.AccessService/LegacyPublicKey",
    "/kas.AccessService/PublicKey",
    "/wellknownconfiguration.WellKnownService/GetWellKnownConfiguration",
];

/// Lets calls in: who is it, do they prove it, may they.
pub struct Gate {
    tokens: Arc<dyn TokenVerifier>,
    proofs: Proofs,
    roles: RolePolicy,
    claims: ClaimNames,
    min_proof: Proof,
    /// Issuers whose tokens give no role but everybody's.
    without_roles: BTreeSet<String>,
    /// How often each caller may call; `None` for as often as they like.
    rate: Option<RateLimit>,
}

/// A call that may go on.
#[derive(Debug)]
enum Admitted {
    /// Anybody may make it.
    Public,
    /// Made by this caller; the nonce is to be sent with the answer.
    Caller { caller: Box<Caller>, nonce: Option<String> },
}

impl Gate {
    /// A gate that verifies tokens by `tokens`, how they are proven by `proofs`, and calls by
    /// `roles`.
    pub fn new(tokens: Arc<dyn TokenVerifier>, proofs: Proofs, roles: RolePolicy) -> Self {
        let (claims, without_roles) = (ClaimNames::default(), BTreeSet::new());
        let min_proof = Proof::Bearer;
        Self { tokens, proofs, roles, claims, min_proof, without_roles, rate: None }
    }

    /// A gate at `origin` that takes any token for one of an administrator; for tests and a
    /// developer's own machine. A server refuses to listen on anything but a loopback address with
    /// it.
    ///
    /// # Errors
    /// When `origin` is none.
    pub async fn for_development(origin: &str) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let settings = DpopSettings { origins: vec![origin.to_owned()], ..DpopSettings::default() };
        let proofs = Proofs::new(settings, Arc::new(MemoryReplay::default()))?;
        Ok(Self::new(Arc::new(DevTokens), proofs, RolePolicy::built_in("").await?))
    }

    /// Reads users, groups and clients from other claims.
    #[must_use]
    pub fn with_claims(self, claims: ClaimNames) -> Self {
        Self { claims, ..self }
    }

    /// Takes no groups and no names of users from tokens of these issuers: their callers have the
    /// role of everybody, and no other.
    #[must_use]
    pub fn without_roles_of(self, issuers: impl IntoIterator<Item = String>) -> Self {
        Self { without_roles: issuers.into_iter().collect(), ..self }
    }

    /// Wants every caller to prove at least this well that the token is theirs.
    #[must_use]
    pub fn with_min_proof(self, min_proof: Proof) -> Self {
        Self { min_proof, ..self }
    }

    /// Lets each caller call so often, and no more.
    #[must_use]
    pub fn with_rate(self, rate: Option<RateLimit>) -> Self {
        Self { rate, ..self }
    }

    /// Whether it is so lenient that a server must only listen on loopback addresses with it.
    pub fn loopback_only(&self) -> bool {
        self.tokens.loopback_only()
    }

    /// Whether anybody may make calls to this path, which is `/package.Service/Method`.
    pub fn is_open(&self, path: &str) -> bool {
        PUBLIC.contains(&path)
    }

    /// Lets a call in by what its HTTP request says, and leaves a [`Caller`] in its extensions. The
    /// path is `/package.Service/Method`. Proofs are about what the client sent, which is `sent` (an
    /// HTTP method and a path) where the request was rewritten since. Gives a header for the answer.
    ///
    /// # Errors
    /// What the client is told; the metadata are headers.
    pub async fn let_in(
        &self,
        parts: &mut Parts,
        sent: Option<(&Method, &str)>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Status> {
        let admitted = self.admit(parts, sent).await;
        instruments().call(match &admitted {
            Ok(Admitted::Public) => "public",
            Ok(Admitted::Caller { .. }) => "admitted",
            Err(refusal) => refusal.kind.as_str(),
        });
        match admitted {
            Ok(Admitted::Public) => Ok(None),
            Ok(Admitted::Caller { caller, nonce }) => {
                parts.extensions.insert(*caller);
                Ok(nonce.and_then(|nonce| header("dpop-nonce", &nonce)))
            }
            Err(refusal) => {
                let mut status = status(&refusal, parts.uri.path());
                *status.metadata_mut() =
                    MetadataMap::from_headers(self.challenge(&refusal).into_iter().collect());
                Err(status)
            }
        }
    }

    async fn admit(
        &self,
        parts: &Parts,
        sent: Option<(&Method, &str)>,
    ) -> Result<Admitted, Refusal> {
        let path = parts.uri.path();
        if self.is_open(path) {
            return Ok(Admitted::Public);
        }
        let (sent_method, sent_path) = sent.unwrap_or((&parts.method, path));
        let mut headers = parts.headers.get_all("authorization").iter();
        let header = headers.next().ok_or(NO_HEADER)?;
        // Whoever stands in front of us may have looked at another one.
        if headers.next().is_some() {
            return Err(Refusal::token("there are several authorization headers"));
        }
        // Text that is not visible ASCII fits no scheme.
        let (scheme, text) = token_of(header.to_str().unwrap_or_default())?;
        let token = self.tokens.verify(text).await?;
        let certificate = client_certificate(&parts.extensions);
        let presented = Presented {
            scheme,
            proofs: &proofs(&parts.headers),
            method: sent_method.as_str(),
            path: sent_path,
            access_token: token.text.expose_secret(),
            certificate: certificate.as_deref(),
        };
        let proven = self.proofs.check(presented, &token).await?;
        if proven.proof < self.min_proof {
            return Err(Refusal::proof("the token is not proven as well as this server wants"));
        }
        // Behind the proof, or whoever has a token could spend the calls of its owner.
        let client_id = self.client_id(&token);
        self.count(&token, &client_id)?;
        let subjects = if self.without_roles.contains(&token.issuer) {
            RolePolicy::everyone()
        } else {
            self.roles.subjects(&token.claims, &self.claims)
        };
        self.roles.authorize(&subjects, path)?;
        let caller = Caller {
            client_id,
            sees_private: self.roles.sees_private(&subjects),
            proof: proven.proof,
            proof_key: proven.key,
            token,
        };
        Ok(Admitted::Caller { caller: Box::new(caller), nonce: proven.nonce })
    }

    fn client_id(&self, token: &VerifiedToken) -> String {
        let id = claim(&token.claims, &self.claims.client_id);
        id.and_then(|id| id.as_str()).unwrap_or_default().to_owned()
    }

    /// Counts a call of a subject of an issuer, by one client.
    fn count(&self, token: &VerifiedToken, client_id: &str) -> Result<(), Refusal> {
        let Some(rate) = &self.rate else { return Ok(()) };
        let caller = format!("{:?}", [token.issuer.as_str(), token.subject.as_str(), client_id]);
        rate.check(&caller).map_err(|wait| Refusal {
            kind: RefusalKind::TooOften(wait),
            reason: Cow::Borrowed("the caller calls too often"),
        })
    }

    /// Headers that tell a client what to do about a refusal.
    fn challenge(&self, refusal: &Refusal) -> Vec<(HeaderName, HeaderValue)> {
        if let RefusalKind::TooOften(wait) = refusal.kind {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return vec![(RETRY_AFTER, HeaderValue::from(seconds.max(1)))];
        }
        let headers = self.proofs.challenge(refusal).into_iter();
        headers.filter_map(|(name, value)| header(name, &value)).collect()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// What a client is told of a refusal, which is little; the log is told the reason.
fn status(refusal: &Refusal, path: &str) -> Status {
    let reason = &refusal.reason;
    match refusal.kind {
        RefusalKind::Unavailable => tracing::warn!(%reason, path, "a call cannot be let in"),
        kind => tracing::info!(%reason, ?kind, path, "a call was refused"),
    }
    let (code, text) = match refusal.kind {
        RefusalKind::MissingHeader => (Code::Unauthenticated, "missing authorization header"),
        RefusalKind::Token | RefusalKind::Proof | RefusalKind::Nonce => {
            (Code::Unauthenticated, "unauthenticated")
        }
        RefusalKind::Forbidden => (Code::PermissionDenied, "permission denied"),
        RefusalKind::Unavailable => (Code::Unavailable, "authentication unavailable"),
        RefusalKind::Exhausted => (Code::ResourceExhausted, "too many requests with one proof key"),
        RefusalKind::TooOften(_) => (Code::ResourceExhausted, "too many requests"),
    };
    Status::new(code, text)
}

const NO_HEADER: Refusal = Refusal {
    kind: RefusalKind::MissingHeader,
    reason: Cow::Borrowed("there is no authorization header"),
};

fn header(name: &'static str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
}

/// The token behind one of the two schemes, which are matched exactly.
fn token_of(authorization: &str) -> Result<(Scheme, &str), Refusal> {
    [("Bearer ", Scheme::Bearer), ("DPoP ", Scheme::Dpop)]
        .iter()
        .find_map(|(prefix, scheme)| Some((*scheme, authorization.strip_prefix(prefix)?)))
        .filter(|(_, token)| !token.is_empty())
        .ok_or_else(|| Refusal::token("the scheme is neither `Bearer ` nor `DPoP ` with a token"))
}

/// The values of all `dpop` headers. One that is no text is no proof either.
fn proofs(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all("dpop").iter().map(|value| value.to_str().unwrap_or_default()).collect()
}

/// The certificate that the client of a TLS connection proved to own.
fn client_certificate(extensions: &Extensions) -> Option<Vec<u8>> {
    let certificates = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
    Some(certificates.first()?.to_vec())
}
