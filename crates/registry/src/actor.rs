//! Who makes a call, and what they may see.

use std::{error::Error as StdError, net::IpAddr};

use kasbah_auth::{Caller, Proof};
use tonic::{Request, Status};

use crate::Error;

/// Who made a call.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// `sub` of the access token.
    pub(crate) subject: String,
    /// Issuer of that token.
    pub(crate) issuer: String,
    pub(crate) user_agent: String,
    pub(crate) address: Option<IpAddr>,
    /// The client that asked for the token; may be empty.
    pub(crate) client: String,
    pub(crate) proof: Proof,
    /// SHA-256 of the token.
    pub(crate) token: [u8; 32],
    pub(crate) sight: Sight,
}

/// What somebody may see of a record. Messages with private parts cannot be made without one, and
/// only [`actor`] makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    sees_private: bool,
}

/// The caller whom the gate in front of the services let in. Whether they may make the call was
/// decided there.
///
/// # Errors
/// `unauthenticated` when there was no gate.
pub(crate) fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| Status::unauthenticated("unauthenticated"))?;
    let user_agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok());
    Ok(Actor {
        subject: caller.token.subject.clone(),
        issuer: caller.token.issuer.clone(),
        user_agent: user_agent.unwrap_or_default().to_owned(),
        address: request.remote_addr().map(|address| address.ip()),
        client: caller.client_id.clone(),
        proof: caller.proof,
        token: caller.token.fingerprint,
        sight: Sight { sees_private: caller.sees_private },
    })
}

impl Sight {
    /// A wrapped private key or settings of a provider: empty for those who may not see them.
    pub(crate) fn of<T: Default>(self, private: T) -> T {
        if self.sees_private { private } else { T::default() }
    }

    /// An error, with its causes for those who may see the settings that these may quote.
    pub(crate) fn of_error(self, error: &dyn StdError) -> String {
        if self.sees_private { chain(error) } else { error.to_string() }
    }

    /// A refusal, in full for those who may see the settings that it may quote.
    pub(crate) fn of_refusal(self, refusal: Error) -> Error {
        match refusal {
            Error::Settings(text) if self.sees_private => Error::Invalid(text),
            other => other,
        }
    }

    /// What a manager says of its state, which may quote its settings.
    pub(crate) fn of_state(self, why: String) -> String {
        if self.sees_private { why } else { "not ready".to_owned() }
    }
}

/// An error with its causes.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
