//! What can go wrong with a token, and what the answers of a module mean.
//!
//! A return code alone does not tell a bad ciphertext from a dead device (both are
//! `CKR_DEVICE_ERROR` on Kryoptic), so [`ErrorClass::of`] looks at the code and the call together
//! and says [`ErrorClass::Ambiguous`] where only a canary can decide.

use cryptoki::{
    context::Function,
    error::{Error as Cryptoki, RvError},
};

use crate::uri::UriError;

/// Result of setting up, searching or provisioning a token.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Setting up, searching or provisioning a token failed. The texts are for operators; none of them
/// holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PKCS#11 call failed; the first field says during what.
    #[error("{0}: {1}")]
    Call(&'static str, #[source] Cryptoki),
    /// A configuration contradicts another one, or itself.
    #[error("{0}")]
    Config(String),
    /// The label or the id is taken.
    #[error("{0}")]
    Exists(String),
    /// Sessions are open, so the module cannot be restarted now.
    #[error("{path}: {sessions} sessions are open; close them before the module is restarted")]
    InUse {
        /// Path of the module.
        path: String,
        /// How many sessions are open, guard sessions not counted.
        sessions: usize,
    },
    /// No key, or more than one, answers to this name.
    #[error("{0}")]
    Key(String),
    /// The library cannot be used.
    #[error("{0}")]
    Module(String),
    /// The token refused the PIN, or it could not be read. Not worth a second attempt.
    #[error("{0}")]
    Pin(String),
    /// The token is not there.
    #[error("{0}")]
    Token(String),
    /// The key reference is not acceptable.
    #[error("{0}")]
    Uri(#[from] UriError),
}

impl Error {
    /// Adds what was being done to a failed call; for `map_err`.
    pub(crate) fn during(what: &'static str) -> impl Fn(Cryptoki) -> Self {
        move |error| Self::Call(what, error)
    }

    /// The class of the PKCS#11 call under it, if it was one.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Call(_, error) => Some(ErrorClass::of(error)),
            _ => None,
        }
    }
}

/// What to do about a failed PKCS#11 call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The caller's input or a broken device: run a canary. Good canary: [`Self::Caller`]; bad
    /// canary: [`Self::Device`].
    Ambiguous,
    /// The caller's input. The only class that is ever reported as a bad request, and all of it
    /// alike.
    Caller,
    /// The device or its driver is gone: recover with back-off, report not ready.
    Device,
    /// A defect on this side or a thing the module cannot do: not retried.
    Internal,
    /// The login was lost: log in once (single flight), retry once.
    Login,
    /// The PIN was refused: stop, alarm, never retry.
    Pin,
    /// The session is unusable: open another, retry once.
    Session,
    /// A cached object handle is stale: search again once, retry once.
    StaleHandle,
}

impl ErrorClass {
    /// Classifies a failed call.
    pub fn of(error: &Cryptoki) -> Self {
        match error {
            Cryptoki::Pkcs11(code, call) => Self::of_code(*code, *call),
            _ => Self::Internal,
        }
    }

    fn of_code(code: RvError, call: Function) -> Self {
        use RvError as E;
        match code {
            E::DataInvalid
            | E::DataLenRange
            | E::EncryptedDataInvalid
            | E::EncryptedDataLenRange
            | E::WrappedKeyInvalid
            | E::WrappedKeyLenRange => Self::Caller,
            E::PinExpired
            | E::PinIncorrect
            | E::PinInvalid
            | E::PinLenRange
            | E::PinLocked
            | E::UserPinNotInitialized => Self::Pin,
            E::OperationActive
            | E::OperationNotInitialized
            | E::SessionClosed
            | E::SessionHandleInvalid => Self::Session,
            E::UserNotLoggedIn => Self::Login,
            E::KeyHandleInvalid | E::ObjectHandleInvalid | E::UnwrappingKeyHandleInvalid => {
                Self::StaleHandle
            }
            // A lost device as well as a hostile input: no error of a call that took a caller's
            // input may start a recovery on its own.
            code if is_device(code) || is_vague(code) => match call {
                call if takes_input(call) => Self::Ambiguous,
                _ if is_device(code) => Self::Device,
                _ => Self::Internal,
            },
            _ => Self::Internal,
        }
    }
}

/// Codes that mean a lost device when no caller's input was involved.
fn is_device(code: RvError) -> bool {
    use RvError as E;
    matches!(
        code,
        E::CryptokiNotInitialized
            | E::DeviceError
            | E::DeviceMemory
            | E::DeviceRemoved
            | E::FunctionFailed
            | E::GeneralError
            | E::HostMemory
            | E::SessionCount
            | E::SlotIdInvalid
            | E::TokenNotPresent
            | E::TokenNotRecognized
    )
}

/// Codes that say nothing definite; modules answer a bad input with them.
fn is_vague(code: RvError) -> bool {
    use RvError as E;
    matches!(code, E::ArgumentsBad | E::UnknownErrorCode(_) | E::VendorDefined(_))
}

/// Calls whose input, or whose object, came from a caller of the KAS.
fn takes_input(call: Function) -> bool {
    use Function as F;
    matches!(
        call,
        F::CreateObject
            | F::DecapsulateKey
            | F::Decrypt
            | F::DecryptInit
            | F::DeriveKey
            | F::EncapsulateKey
            | F::Encrypt
            | F::Sign
            | F::UnwrapKey
            | F::Verify
            | F::WrapKey
    )
}

#[cfg(test)]
mod tests {
    use Function as F;
    use RvError as E;

    use super::*;

    fn class(code: RvError, call: Function) -> ErrorClass {
        ErrorClass::of(&Cryptoki::Pkcs11(code, call))
    }

    #[test]
    fn by_code_and_call() {
        for (code, call, expected) in [
            // What only a caller's input can cause.
            (E::EncryptedDataInvalid, F::Decrypt, ErrorClass::Caller),
            (E::EncryptedDataLenRange, F::Decrypt, ErrorClass::Caller),
            (E::WrappedKeyInvalid, F::UnwrapKey, ErrorClass::Caller),
            (E::WrappedKeyLenRange, F::UnwrapKey, ErrorClass::Caller),
            (E::DataLenRange, F::Decrypt, ErrorClass::Caller),
            (E::DataInvalid, F::DeriveKey, ErrorClass::Caller),
            // Bad padding, as SoftHSM, Kryoptic, openCryptoki and NSS answer it.
            (E::GeneralError, F::UnwrapKey, ErrorClass::Ambiguous),
            (E::DeviceError, F::UnwrapKey, ErrorClass::Ambiguous),
            (E::FunctionFailed, F::Decrypt, ErrorClass::Ambiguous),
            (E::ArgumentsBad, F::Decrypt, ErrorClass::Ambiguous),
            (E::GeneralError, F::DeriveKey, ErrorClass::Ambiguous),
            (E::DeviceError, F::DecapsulateKey, ErrorClass::Ambiguous),
            // A client's key with a huge exponent.
            (E::DeviceError, F::WrapKey, ErrorClass::Ambiguous),
            (E::GeneralError, F::CreateObject, ErrorClass::Ambiguous),
            (E::DeviceError, F::EncapsulateKey, ErrorClass::Ambiguous),
            // Nothing that took a caller's input starts a recovery by itself.
            (E::DeviceRemoved, F::UnwrapKey, ErrorClass::Ambiguous),
            (E::CryptokiNotInitialized, F::WrapKey, ErrorClass::Ambiguous),
            (E::VendorDefined(0x8000_0001), F::UnwrapKey, ErrorClass::Ambiguous),
            (E::UnknownErrorCode(0x7fff), F::UnwrapKey, ErrorClass::Ambiguous),
            // The same codes where no input was involved.
            (E::DeviceError, F::FindObjectsInit, ErrorClass::Device),
            (E::DeviceError, F::OpenSession, ErrorClass::Device),
            (E::GeneralError, F::GetTokenInfo, ErrorClass::Device),
            (E::DeviceRemoved, F::OpenSession, ErrorClass::Device),
            (E::TokenNotPresent, F::OpenSession, ErrorClass::Device),
            (E::TokenNotRecognized, F::GetTokenInfo, ErrorClass::Device),
            (E::SlotIdInvalid, F::OpenSession, ErrorClass::Device),
            (E::CryptokiNotInitialized, F::GetSlotList, ErrorClass::Device),
            (E::ArgumentsBad, F::FindObjectsInit, ErrorClass::Internal),
            (E::VendorDefined(0x8000_0001), F::OpenSession, ErrorClass::Internal),
            // The session or the login.
            (E::SessionHandleInvalid, F::UnwrapKey, ErrorClass::Session),
            (E::SessionClosed, F::Sign, ErrorClass::Session),
            (E::OperationActive, F::DecryptInit, ErrorClass::Session),
            (E::OperationNotInitialized, F::Decrypt, ErrorClass::Session),
            (E::UserNotLoggedIn, F::UnwrapKey, ErrorClass::Login),
            // A token key that moved.
            (E::KeyHandleInvalid, F::DecryptInit, ErrorClass::StaleHandle),
            (E::ObjectHandleInvalid, F::GetAttributeValue, ErrorClass::StaleHandle),
            (E::UnwrappingKeyHandleInvalid, F::UnwrapKey, ErrorClass::StaleHandle),
            // Never retried.
            (E::PinIncorrect, F::Login, ErrorClass::Pin),
            (E::PinLocked, F::Login, ErrorClass::Pin),
            (E::PinExpired, F::Login, ErrorClass::Pin),
            (E::PinInvalid, F::Login, ErrorClass::Pin),
            (E::PinLenRange, F::Login, ErrorClass::Pin),
            (E::UserPinNotInitialized, F::Login, ErrorClass::Pin),
            (E::MechanismInvalid, F::UnwrapKey, ErrorClass::Internal),
            (E::KeyFunctionNotPermitted, F::UnwrapKey, ErrorClass::Internal),
            (E::TemplateInconsistent, F::UnwrapKey, ErrorClass::Internal),
            (E::AttributeReadOnly, F::UnwrapKey, ErrorClass::Internal),
        ] {
            assert_eq!(class(code, call), expected, "{code:?} from {call:?}");
        }
    }

    #[test]
    fn what_the_crate_refuses_is_internal() {
        for error in [Cryptoki::NotSupported, Cryptoki::InvalidValue, Cryptoki::PinNotSet] {
            assert_eq!(ErrorClass::of(&error), ErrorClass::Internal);
        }
    }

    #[test]
    fn only_failed_calls_have_a_class() {
        let error = Cryptoki::Pkcs11(E::PinLocked, F::Login);
        assert_eq!(Error::Call("logging in", error).class(), Some(ErrorClass::Pin));
        assert_eq!(Error::Token("gone".into()).class(), None);
    }
}
