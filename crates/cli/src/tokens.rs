//! Tokens, and what their errors mean for the exit code.

use kasbah_pkcs11::{
    error::{Error, ErrorClass},
    module::Module,
    token::{PinSource, Token},
};
use std::sync::Arc;

use crate::{
    config::TokenSettings,
    exit::{Exit, Failure},
};

impl TokenSettings {
    /// Opens the token and logs in.
    pub(crate) fn open(&self) -> Result<Arc<Token>, Error> {
        let module = Module::load(&format!("modules.{}.path", self.module_name), &self.module)?;
        let pin = PinSource { name: self.pin_name.clone(), source: self.pin.clone() };
        Token::open(&module, &self.token, self.slot, pin)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(exit_of(&error), error)
    }
}

/// What is down may come back by itself; everything else is for somebody to correct.
pub(crate) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::InUse { .. } => Exit::Unavailable,
        Error::Call(..) if error.class() != Some(ErrorClass::Pin) => Exit::Unavailable,
        Error::Call(..)
        | Error::Config(_)
        | Error::Exists(_)
        | Error::Key(_)
        | Error::Module(_)
        | Error::Pin(_)
        | Error::Token(_)
        | Error::Uri(_) => Exit::Usage,
    }
}
