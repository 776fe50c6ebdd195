//! Tokens, and what their errors mean for the exit code.

use kasbah_pkcs11::{
    config::Settings,
    error::{Error, ErrorClass},
    module::Module,
    token::{PinSource, Token},
};
use std::sync::Arc;

use crate::{
    config::{Config, TokenSettings},
    exit::{Exit, Failure},
};

impl TokenSettings {
    /// What `settings` of a provider configuration name on this node.
    pub(crate) fn of(config: &Config, settings: &Settings) -> Result<Self, Failure> {
        let lacks = |section, name: &str| {
            Failure::usage(format!("this node has no `{name}` under `{section}`"))
        };
        let module = config.modules.get(&settings.module);
        let pin = config.secrets.get(&settings.pin);
        Ok(Self {
            module: module.ok_or_else(|| lacks("modules", &settings.module))?.clone(),
            module_name: settings.module.clone(),
            token: settings.token.clone(),
            slot: settings.slot,
            pin: pin.ok_or_else(|| lacks("secrets", &settings.pin))?.clone(),
            pin_name: settings.pin.clone(),
        })
    }

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
