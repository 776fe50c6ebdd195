use std::{fmt, sync::Arc, time::Duration};

use kasbah_auth::Gate;
use kasbah_trust::{
    Algorithm, KeyIndex, KeyManagerFactory, KeyManagers, KeyService, UnknownManager,
};
use tonic::transport::Uri;

use crate::{AccessRules, AuditSink, Kas, Limits, MinProof, access::Nobody};

/// Tolerance for clocks that differ.
const DEFAULT_CLOCK_SKEW: Duration = Duration::from_mins(1);
/// The longest that a signed request token may be good. Most clients make them good for a minute,
/// otdf-python for two hours.
const DEFAULT_SRT_LIFETIME: Duration = Duration::from_hours(2);

/// Puts a [`Kas`] together. Setters never fail; [`KasBuilder::build`] reports everything at once.
#[derive(Debug)]
pub struct KasBuilder {
    uri: String,
    managers: KeyManagers,
    default_manager: Option<String>,
    unknown_managers: UnknownManager,
    index: Option<Arc<dyn KeyIndex>>,
    gate: Option<Arc<Gate>>,
    audit: Option<Arc<dyn AuditSink>>,
    access: AccessRules,
    min_proof: MinProof,
    limits: Limits,
    clock_skew: Duration,
    srt_lifetime: Duration,
    problems: Vec<String>,
}

/// Everything that keeps a [`Kas`] from being built, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct BuildError {
    problems: Vec<String>,
}

/// What a built server is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) uri: String,
    pub(crate) keys: Arc<KeyService>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) access: AccessRules,
    /// For whom denied data keys are re-encrypted, if bindings are checked after denials.
    pub(crate) nobody: Option<Nobody>,
    pub(crate) min_proof: MinProof,
    pub(crate) limits: Limits,
    pub(crate) clock_skew: Duration,
    pub(crate) srt_lifetime: Duration,
}

impl KasBuilder {
    pub(crate) fn new() -> Self {
        Self {
            uri: String::new(),
            managers: KeyManagers::default(),
            default_manager: None,
            unknown_managers: UnknownManager::default(),
            index: None,
            gate: None,
            audit: None,
            access: AccessRules::default(),
            min_proof: MinProof::default(),
            limits: Limits::default(),
            clock_skew: DEFAULT_CLOCK_SKEW,
            srt_lifetime: DEFAULT_SRT_LIFETIME,
            problems: Vec::new(),
        }
    }

    /// URI this KAS is registered under, `http` or `https`. Required.
    #[must_use]
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = uri.into();
        self
    }

    /// Registers a kind of key manager under `name` with the algorithms it serves.
    #[must_use]
    pub fn key_manager(
        mut self,
        name: &str,
        algorithms: &[Algorithm],
        factory: Arc<dyn KeyManagerFactory>,
    ) -> Self {
        if let Err(error) = self.managers.register(name, algorithms, factory) {
            self.problems.push(error.to_string());
        }
        self
    }

    /// The manager of keys without a provider configuration. Required.
    #[must_use]
    pub fn default_manager(mut self, name: impl Into<String>) -> Self {
        self.default_manager = Some(name.into());
        self
    }

    /// What to do with keys whose manager nobody registered; attempts the default one if not set.
    #[must_use]
    pub fn unknown_managers(mut self, unknown: UnknownManager) -> Self {
        self.unknown_managers = unknown;
        self
    }

    /// Where keys are found. Required.
    #[must_use]
    pub fn key_index(mut self, index: Arc<dyn KeyIndex>) -> Self {
        self.index = Some(index);
        self
    }

    /// What decides who is let in. Required.
    #[must_use]
    pub fn gate(mut self, gate: Arc<Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// How access to data is decided. If not set, policies without attributes are open to every
    /// caller who is let in, and others to nobody.
    #[must_use]
    pub fn access(mut self, access: AccessRules) -> Self {
        self.access = access;
        self
    }

    /// Which keys need callers who prove that their token is theirs; none if not set.
    #[must_use]
    pub fn min_proof(mut self, min_proof: MinProof) -> Self {
        self.min_proof = min_proof;
        self
    }

    /// Where audit events go. Required.
    #[must_use]
    pub fn audit(mut self, sink: Arc<dyn AuditSink>) -> Self {
        self.audit = Some(sink);
        self
    }

    /// Bounds; [`Limits::default`] if not set.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Tolerance for clocks that differ when time claims of a signed request token are checked;
    /// 60 seconds if not set.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// The longest that a signed request token may be good; two hours if not set.
    #[must_use]
    pub fn srt_lifetime(mut self, lifetime: Duration) -> Self {
        self.srt_lifetime = lifetime;
        self
    }

    /// Checks everything and builds the server; managers are built on first use.
    ///
    /// # Errors
    /// Everything that is missing or does not fit, at once.
    pub fn build(mut self) -> Result<Kas, BuildError> {
        self.check();
        let default = self.default_manager.unwrap_or_default();
        match (self.index, self.gate, self.audit) {
            (Some(index), Some(gate), Some(audit)) if self.problems.is_empty() => {
                let failed =
                    |error: &dyn fmt::Display| BuildError { problems: vec![error.to_string()] };
                let keys = KeyService::new(index, self.managers, &default, self.unknown_managers)
                    .map_err(|error| failed(&error))?;
                let nobody = self.access.check_binding_after_denial.then(Nobody::new);
                Ok(Kas::new(Parts {
                    uri: self.uri,
                    keys: Arc::new(keys),
                    gate,
                    audit,
                    access: self.access,
                    nobody: nobody.transpose().map_err(|error| failed(&error))?,
                    min_proof: self.min_proof,
                    limits: self.limits,
                    clock_skew: self.clock_skew,
                    srt_lifetime: self.srt_lifetime,
                }))
            }
            _ => Err(BuildError { problems: self.problems }),
        }
    }

    fn check(&mut self) {
        self.check_uri();
        self.check_default_manager();
        let missing = [
            (self.index.is_none(), "no key index is set; call key_index"),
            (self.gate.is_none(), "no gate is set; call gate"),
            (self.audit.is_none(), "no audit sink is set; call audit"),
        ];
        self.problems.extend(missing.iter().filter(|m| m.0).map(|m| m.1.to_owned()));
        self.problems.extend(self.limits.problems());
    }

    fn check_uri(&mut self) {
        let fits = self.uri.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !fits {
            self.problems.push(format!(
                "the KAS URI `{}` is not an absolute http or https URI; call uri",
                self.uri
            ));
        }
    }

    fn check_default_manager(&mut self) {
        let registered: Vec<_> = self.managers.names().collect();
        let problem = match &self.default_manager {
            None => "no default key manager is set; call default_manager".to_owned(),
            Some(name) if self.managers.factory(name).is_none() => format!(
                "default key manager {name} is not registered; registered: [{}]",
                registered.join(", ")
            ),
            Some(_) => return,
        };
        self.problems.push(problem);
    }
}

impl BuildError {
    /// One line for each problem.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for BuildError {}
