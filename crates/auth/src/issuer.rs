use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    IssuerSettings, Jws, KeySetError, KeySource, Refusal, SetupError, TokenRules, claims,
    jws::ALGORITHMS,
    keys::{KeyProblem, KeySet},
    remote::{Keys, Remote},
};

/// An issuer with its keys.
#[derive(Debug)]
pub(crate) struct Issuer {
    audience: String,
    /// Empty for all.
    algorithms: Vec<String>,
    pub(crate) source: Source,
}

#[derive(Debug)]
pub(crate) enum Source {
    Given(Arc<Keys>),
    Remote(Arc<Remote>),
}

impl Issuer {
    pub(crate) fn new(settings: IssuerSettings, rules: &TokenRules) -> Result<Self, SetupError> {
        let IssuerSettings { issuer, audience, algorithms, keys } = settings;
        if audience.is_empty() {
            return Err(SetupError::Audience(issuer));
        }
        if let Some(unknown) = algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
            return Err(SetupError::Algorithm { algorithm: unknown.clone(), issuer });
        }
        let given = |keys: Result<KeySet, KeySetError>| match keys {
            Ok(keys) if keys.is_empty() => Err(KeySetError::NoUsableKey),
            keys => keys.map(|keys| Source::Given(Arc::new(Keys::first(keys)))),
        };
        let of_issuer = |source| SetupError::Keys { issuer: issuer.clone(), source };
        let source = match keys {
            KeySource::Jwks(text) => {
                given(KeySet::from_jwks(text.as_bytes())).map_err(of_issuer)?
            }
            KeySource::Pem(text) => given(KeySet::from_pem(&text)).map_err(of_issuer)?,
            KeySource::Discovery { jwks_uri, ca_file, timeout } => Source::Remote(Arc::new(
                Remote::new(issuer, jwks_uri, ca_file.as_deref(), timeout, rules)?,
            )),
        };
        Ok(Self { audience, algorithms, source })
    }

    /// Verifies signature and audience, and returns the generation of the keys that did it.
    pub(crate) async fn verify(&self, jws: &Jws<'_>, algorithm: &str) -> Result<u64, Refusal> {
        if !self.algorithms.is_empty() && !self.algorithms.iter().any(|name| name == algorithm) {
            return Err(Refusal::token("its algorithm is not allowed for its issuer"));
        }
        let kid = claims::kid(jws.header())?;
        let generation = self.verify_signature(jws, kid).await?;
        claims::check_audience(jws.claims(), &self.audience)?;
        Ok(generation)
    }

    async fn verify_signature(&self, jws: &Jws<'_>, kid: Option<&str>) -> Result<u64, Refusal> {
        let asked = Instant::now();
        let keys = self.source.current().await?;
        let problem = match keys.set.verify(jws, kid) {
            Ok(()) => return Ok(keys.generation),
            Err(problem) => problem,
        };
        // A key of the issuer that is not known yet, perhaps.
        let (Source::Remote(remote), KeyProblem::UnknownKid | KeyProblem::OnlyKey(_)) =
            (&self.source, problem)
        else {
            return Err(refuse(problem));
        };
        let newer = remote.newer(asked).await?;
        if newer.generation == keys.generation {
            return Err(refuse(problem));
        }
        newer.set.verify(jws, kid).map_err(refuse)?;
        Ok(newer.generation)
    }
}

impl Source {
    /// Keys to verify with now, fetched if there are none.
    async fn current(&self) -> Result<Arc<Keys>, Refusal> {
        match self {
            Self::Given(keys) => Ok(Arc::clone(keys)),
            Self::Remote(remote) => Ok(remote.current().await?),
        }
    }

    /// The generation of the keys to verify with now, if there are any.
    pub(crate) fn generation(&self) -> Option<u64> {
        match self {
            Self::Given(keys) => Some(keys.generation),
            Self::Remote(remote) => remote.at_hand().map(|keys| keys.generation),
        }
    }
}

fn refuse(problem: KeyProblem) -> Refusal {
    match problem {
        KeyProblem::NoKid => Refusal::token("it has no kid, and its issuer has several keys"),
        KeyProblem::UnknownKid => Refusal::token("its issuer has no key of its kid"),
        KeyProblem::Signature(error) | KeyProblem::OnlyKey(error) => Refusal::token(error.reason()),
    }
}
