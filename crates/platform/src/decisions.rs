use std::{
    error::Error as StdError,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kasbah_access::{Decision, DecisionError, Decisions, Question};
use kasbah_proto::authorization::v2::{
    ResourceDecision, authorization_service_client::AuthorizationServiceClient,
};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Code, Status, transport::Channel};

use crate::{
    BreakerRules, Connection, DecisionState, SetupError,
    asked::{Asked, Call},
    breaker::{Breaker, Open, Pass},
    link::{CallError, Link},
};

/// How a platform is asked for decisions. The three limits are those of the platform, which refuses
/// a whole call that is beyond one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionSettings {
    /// How long one question may take, a token included.
    pub timeout: Duration,
    /// Attribute value FQNs of one resource; one with more is denied.
    pub fqns_per_resource: usize,
    /// Resources of one question.
    pub resources: usize,
    /// Obligations of one question that the client can fulfil.
    pub fulfillable: usize,
    /// Questions under way at once; further ones fail.
    pub under_way: u16,
    /// When the platform is left alone.
    pub breaker: BreakerRules,
}

impl Default for DecisionSettings {
    /// 2 seconds, the limits of a platform whose configuration has none, 128 questions at once, and
    /// 5 seconds of rest after 5 failures.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            fqns_per_resource: 20,
            resources: 1000,
            fulfillable: 50,
            under_way: 128,
            breaker: BreakerRules { failures: 5, open_for: Duration::from_secs(5) },
        }
    }
}

/// The access decisions of an OpenTDF platform (`authorization.v2.AuthorizationService`), over
/// gRPC.
///
/// A question is one call, which carries the caller's access token. A resource that the platform
/// would refuse the others for (an FQN that is no URI, too many of them) is denied without being
/// asked about.
///
/// What the platform says of an error is not repeated, since it may quote the token or its claims;
/// the platform's own log has it.
///
/// A platform that does not answer some questions in a row is left alone for a while, in which
/// questions fail at once. One of its refusals is an answer.
#[derive(Debug)]
pub struct PlatformDecisions {
    link: Link,
    settings: DecisionSettings,
    breaker: Breaker,
    slots: Semaphore,
}

impl PlatformDecisions {
    /// Connects when first used, so the platform need not be up. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(connection: &Connection, settings: DecisionSettings) -> Result<Self, SetupError> {
        settings.check()?;
        Ok(Self {
            link: Link::new(connection, settings.timeout)?,
            settings,
            breaker: Breaker::new(settings.breaker),
            slots: Semaphore::new(settings.under_way.into()),
        })
    }

    /// Whether the platform is asked, and what was wrong with its last answer.
    pub fn state(&self) -> DecisionState {
        self.breaker.state()
    }

    /// Asks, and judges whether the platform is well.
    async fn judged(
        &self,
        asked: Asked,
        left: Duration,
        pass: Pass<'_>,
    ) -> Result<Vec<Decision>, DecisionError> {
        let limit = self.settings.timeout;
        let Ok(answer) = timeout(left.min(limit), self.ask(asked)).await else {
            if left <= limit {
                return Err(DecisionError::Cancelled("its deadline has passed".into()));
            }
            let text = format!("{} took longer than {limit:?}", self.link.endpoint());
            return Err(self.failed(pass, text.into()));
        };
        match answer {
            Ok(decisions) => {
                self.answered(pass, None);
                Ok(decisions)
            }
            Err(DecisionError::Unavailable(text)) => Err(self.failed(pass, text)),
            Err(error) => {
                self.answered(pass, Some(error.to_string().into()));
                Err(error)
            }
        }
    }

    async fn ask(&self, mut asked: Asked) -> Result<Vec<Decision>, DecisionError> {
        let Some(call) = asked.call.take() else { return self.read(asked, Vec::new()) };
        let method = call.method();
        match self.send(call).await {
            Ok(answer) => self.read(asked, answer),
            Err(CallError::Token(error)) => {
                Err(DecisionError::Unavailable(error.to_string().into()))
            }
            Err(CallError::Status(status)) => Err(self.classify(&status, method)),
        }
    }

    async fn send(&self, call: Call) -> Result<Vec<ResourceDecision>, CallError> {
        match call {
            Call::One(request) => {
                let call = async |channel, request| client(channel).get_decision(request).await;
                Ok(self.link.call(request, call).await?.decision.into_iter().collect())
            }
            Call::Many(request) => {
                let call = async |channel, request| {
                    client(channel).get_decision_multi_resource(request).await
                };
                Ok(self.link.call(request, call).await?.resource_decisions)
            }
        }
    }

    fn read(
        &self,
        asked: Asked,
        answer: Vec<ResourceDecision>,
    ) -> Result<Vec<Decision>, DecisionError> {
        asked.read(answer).map_err(|reason| {
            let endpoint = self.link.endpoint();
            let text = format!("{endpoint} gives answers that cannot be right: {reason}");
            DecisionError::Unavailable(text.into())
        })
    }

    fn classify(&self, status: &Status, method: &str) -> DecisionError {
        let endpoint = self.link.endpoint();
        let mut text = format!("{method} at {endpoint} failed: {:?}", status.code());
        // Only what went wrong on this side has a cause.
        let mut cause = status.source();
        let is_ours = cause.is_some();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Aborted => {
                text.push_str("; check that the platform is up and reachable");
                DecisionError::Unavailable(text.into())
            }
            _ if is_ours => DecisionError::Unavailable(text.into()),
            code => {
                text.push_str(hint(code));
                DecisionError::Refused(text.into())
            }
        }
    }

    fn answered(&self, pass: Pass<'_>, error: Option<Arc<str>>) {
        if pass.answered(error) {
            let endpoint = self.link.endpoint();
            tracing::info!(%endpoint, "the platform answers again, so it is asked for decisions");
        }
    }

    fn failed(&self, pass: Pass<'_>, text: Arc<str>) -> DecisionError {
        if pass.failed(Arc::clone(&text)) {
            let open_for = self.settings.breaker.open_for;
            tracing::warn!(error = %text, ?open_for, "no decision is asked of the platform for now");
        }
        DecisionError::Unavailable(text)
    }
}

#[async_trait]
impl Decisions for PlatformDecisions {
    async fn decide(&self, question: Question<'_>) -> Result<Vec<Decision>, DecisionError> {
        let asked = Asked::new(&question, &self.settings)
            .map_err(|reason| DecisionError::Refused(reason.into()))?;
        if asked.call.is_none() {
            return self.read(asked, Vec::new());
        }
        let left = question.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DecisionError::Cancelled("its deadline has passed".into()));
        }
        let pass = self.breaker.admit().map_err(|open| left_alone(&open))?;
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(DecisionError::Unavailable("too many questions under way".into()));
        };
        self.judged(asked, left, pass).await
    }
}

impl DecisionSettings {
    fn check(&self) -> Result<(), SetupError> {
        for (name, is_zero) in [
            ("timeout", self.timeout.is_zero()),
            ("fqns_per_resource", self.fqns_per_resource == 0),
            ("resources", self.resources == 0),
            ("under_way", self.under_way == 0),
            ("breaker.failures", self.breaker.failures == 0),
        ] {
            if is_zero {
                return Err(SetupError::Zero(name));
            }
        }
        Ok(())
    }
}

fn client(channel: Channel) -> AuthorizationServiceClient<Channel> {
    AuthorizationServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES)
}

fn left_alone(open: &Open) -> DecisionError {
    let Open { wait, last_error } = open;
    let until = if wait.is_zero() {
        "until a question under way is answered".to_owned()
    } else {
        format!("for {} ms", wait.as_millis())
    };
    DecisionError::Unavailable(format!("{last_error}, not asked again {until}").into())
}

fn hint(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "; are the limits here those of the platform?",
        Code::PermissionDenied => "; the client needs a role that may ask for decisions",
        Code::Unauthenticated => "; check client_id, client_secret and the audience of the token",
        Code::Unimplemented => "; is this an OpenTDF platform with authorization.v2?",
        Code::Internal => "; see its log (a token without azp is a known reason)",
        _ => "",
    }
}

/// 1000 decisions with some obligations each.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
