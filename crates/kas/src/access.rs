use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;
use kasbah_access::{DecisionError, Decisions, Question, Subject};
use kasbah_auth::Caller;
use kasbah_telemetry::instruments;
use kasbah_trust::{Deadline, Error, PublicKey};
use tokio::time::timeout_at;
use tracing::instrument;

use crate::{AuditOutcome, edge::Fault, policy::Policy};

/// Evidence that a caller may have one data key of one policy re-encrypted to one recipient.
///
/// Only the decision code makes one. It cannot be cloned, and the function that calls the key
/// manager takes it by value and finds the policy text in it, so neither can a data key be
/// rewrapped without a decision nor under a policy that was not decided on.
pub struct AccessGranted {
    policy: Arc<str>,
    subject: String,
    recipient: [u8; 32],
    expires: Deadline,
}

impl AccessGranted {
    /// The policy as base64 text, exactly as sent.
    pub(crate) fn policy(&self) -> &str {
        &self.policy
    }

    /// Checks that it was granted for this recipient and still holds.
    ///
    /// # Errors
    /// `Internal` for another recipient, `Unavailable` when it has expired.
    pub(crate) fn check(&self, recipient: &PublicKey) -> Result<(), Error> {
        if self.recipient != recipient.fingerprint() {
            return Err(Error::internal("access was granted for another recipient"));
        }
        if self.expires.has_passed() {
            return Err(Error::unavailable("access expired before the key manager was reached"));
        }
        Ok(())
    }
}

impl fmt::Debug for AccessGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessGranted").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// How access to data is decided.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    /// Who decides on policies with attributes; with nobody they are denied.
    pub decisions: Option<Arc<dyn Decisions>>,
    /// Whether policies without attributes are denied too, instead of being open to every
    /// authenticated caller.
    pub deny_without_attributes: bool,
    /// Whether the policy binding is checked after a denial, so that tampering is reported to
    /// callers who were refused, too. It lends them the time of the key manager.
    pub check_binding_after_denial: bool,
}

/// What was decided on one policy.
pub(crate) struct Verdict {
    permit: Result<Permit, Fault>,
    /// FQNs of the obligations that access brings with it, or would.
    pub(crate) obligations: Vec<String>,
    policy: Arc<str>,
    subject: String,
}

/// The policy may be read. Private, so that only a decision can be turned into grants.
struct Permit;

impl Verdict {
    /// A grant for one data key of the policy; it holds until `expires`.
    pub(crate) fn grant(
        &self,
        recipient: &PublicKey,
        expires: Deadline,
    ) -> Result<AccessGranted, Fault> {
        self.permit.as_ref().map_err(Clone::clone)?;
        Ok(self.granted(recipient, expires))
    }

    /// After a denial: a grant for a recipient that can open nothing, to find out whether the data
    /// key is bound to the policy.
    pub(crate) fn grant_to_nobody(&self, nobody: &Nobody, expires: Deadline) -> AccessGranted {
        self.granted(&nobody.0, expires)
    }

    fn count(&self) {
        instruments().decision(match &self.permit {
            Ok(Permit) => "permit",
            Err(fault) if fault.outcome == AuditOutcome::Denied => "deny",
            Err(fault) => fault.outcome.as_str(),
        });
    }

    fn granted(&self, recipient: &PublicKey, expires: Deadline) -> AccessGranted {
        AccessGranted {
            policy: Arc::clone(&self.policy),
            subject: self.subject.clone(),
            recipient: recipient.fingerprint(),
            expires,
        }
    }
}

/// A public key whose private part nobody has.
#[derive(Debug)]
pub(crate) struct Nobody(PublicKey);

impl Nobody {
    /// Makes a key pair and forgets the private part.
    pub(crate) fn new() -> kasbah_trust::Result<Self> {
        let pair = kasbah_crypto::PrivateKeyParts::generate(kasbah_trust::Algorithm::Rsa2048);
        Ok(Self(pair.map_err(Error::internal)?.public_key()))
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.0
    }
}

/// Decides on policies, all with one question; one verdict for each, in order.
#[instrument(name = "decide", skip_all, fields(policies = policies.len()))]
pub(crate) async fn decide(
    rules: &AccessRules,
    caller: &Caller,
    policies: &[&Policy],
    fulfillable: &[String],
    deadline: Deadline,
) -> Vec<Verdict> {
    let asked: Vec<_> = policies.iter().filter(|policy| !policy.attributes.is_empty()).collect();
    let resources: Vec<_> = asked.iter().map(|policy| policy.attributes.clone()).collect();
    let mut answers = answers(rules, caller, &resources, fulfillable, deadline).await.into_iter();
    let verdict = |policy: &&Policy| {
        let (permit, obligations) = if policy.attributes.is_empty() {
            (without_attributes(rules), Vec::new())
        } else {
            // One answer for each that was asked for; were one missing, there is no access.
            answers.next().unwrap_or((Err(Fault::FORBIDDEN), Vec::new()))
        };
        let subject = caller.token.subject.clone();
        let verdict = Verdict { permit, obligations, policy: Arc::clone(&policy.text), subject };
        verdict.count();
        verdict
    };
    policies.iter().map(verdict).collect()
}

fn without_attributes(rules: &AccessRules) -> Result<Permit, Fault> {
    if rules.deny_without_attributes {
        return Err(Fault::FORBIDDEN_WITHOUT_ATTRIBUTES);
    }
    Ok(Permit)
}

type Answer = (Result<Permit, Fault>, Vec<String>);

async fn answers(
    rules: &AccessRules,
    caller: &Caller,
    resources: &[Vec<String>],
    fulfillable: &[String],
    deadline: Deadline,
) -> Vec<Answer> {
    if resources.is_empty() {
        return Vec::new();
    }
    let all = |fault: &Fault| resources.iter().map(|_| (Err(fault.clone()), Vec::new())).collect();
    let Some(decisions) = &rules.decisions else {
        return all(&Fault::FORBIDDEN_NO_DECISION_SERVICE);
    };
    let subject = Subject {
        claims: Arc::clone(&caller.token.claims),
        client_id: caller.client_id.clone(),
        token: Arc::clone(&caller.token.text),
    };
    let question =
        Question { subject: &subject, resources, fulfillable, deadline: deadline.instant() };
    let asked = Instant::now();
    let decided = ask(decisions.as_ref(), question).await;
    instruments().decided(if decided.is_ok() { "answered" } else { "failed" }, asked.elapsed());
    match decided {
        Ok(decided) => decided
            .into_iter()
            .map(|decision| {
                let permit = if decision.permit { Ok(Permit) } else { Err(Fault::FORBIDDEN) };
                (permit, decision.obligations)
            })
            .collect(),
        Err(error) => all(&undecided(&error)),
    }
}

async fn ask(
    decisions: &dyn Decisions,
    question: Question<'_>,
) -> Result<Vec<kasbah_access::Decision>, DecisionError> {
    let asking = AssertUnwindSafe(decisions.decide(question)).catch_unwind();
    let decided = match timeout_at(question.deadline.into(), asking).await {
        Ok(Ok(decided)) => decided?,
        Ok(Err(_)) => return Err(DecisionError::Unavailable("it panicked".into())),
        Err(_) => return Err(DecisionError::Cancelled("no answer before the deadline".into())),
    };
    if decided.len() != question.resources.len() {
        let reason = "it answered another question than was asked";
        return Err(DecisionError::Unavailable(reason.into()));
    }
    Ok(decided)
}

fn undecided(error: &DecisionError) -> Fault {
    match error {
        DecisionError::Cancelled(_) => {
            tracing::info!(%error, "access was not decided");
            Fault::DECISION_CANCELLED
        }
        DecisionError::Unavailable(_) => {
            tracing::warn!(%error, "access was not decided");
            Fault::DECISION_UNAVAILABLE
        }
        DecisionError::Refused(_) => {
            tracing::warn!(%error, "access was not decided");
            Fault::DECISION_REFUSED
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kasbah_crypto::PrivateKeyParts;
    use kasbah_trust::Algorithm;

    use super::*;

    fn verdict(permit: Result<Permit, Fault>) -> Verdict {
        let (policy, subject) = ("e30=".into(), "alice".to_owned());
        Verdict { permit, obligations: Vec::new(), policy, subject }
    }

    fn public_key() -> PublicKey {
        PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap().public_key()
    }

    #[test]
    fn a_grant_is_for_one_recipient_and_one_time() {
        let (ours, other) = (public_key(), public_key());
        let permit = verdict(Ok(Permit));
        let soon = Deadline::after(Duration::from_mins(1));
        let granted = permit.grant(&ours, soon).unwrap();
        assert_eq!(granted.policy(), "e30=");
        assert!(granted.check(&ours).is_ok());
        assert!(matches!(granted.check(&other), Err(Error::Internal(_))));
        let expired = permit.grant(&ours, Deadline::after(Duration::ZERO)).unwrap();
        assert!(matches!(expired.check(&ours), Err(Error::Unavailable(_))));
    }

    #[test]
    fn a_denial_grants_to_nobody_alone() {
        let ours = public_key();
        let soon = Deadline::after(Duration::from_mins(1));
        let denied = verdict(Err(Fault::FORBIDDEN));
        assert_eq!(denied.grant(&ours, soon).unwrap_err(), Fault::FORBIDDEN);
        let nobody = Nobody::new().unwrap();
        let granted = denied.grant_to_nobody(&nobody, soon);
        assert!(granted.check(nobody.public_key()).is_ok());
        assert!(granted.check(&ours).is_err());
    }
}
