//! The one place that knows status codes and public texts.
//!
//! A text says `bad request` only where the outcome may speak of secret material: clients read
//! those words as a sign of tampering. Every other text describes what is wrong.

use std::borrow::Cow;

use kasbah_auth::Proof;
use kasbah_crypto::PublicKeyError;
use kasbah_trust::Error;
use tonic::{Code, Status};

use crate::AuditOutcome;

/// Why a request, or one key access object of it, failed; in public words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    class: Class,
    desc: Cow<'static, str>,
    /// What the audit log is told, which can be more than the client learns.
    pub(crate) outcome: AuditOutcome,
}

/// The codes a rewrap fails with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
}

impl Fault {
    // Of the signed request token.
    pub(crate) const COULD_NOT_PARSE_TOKEN: Self =
        Self::malformed(Class::Unauthenticated, "could not parse token");
    pub(crate) const UNABLE_TO_VERIFY_TOKEN: Self =
        Self::malformed(Class::Unauthenticated, "unable to verify request token");
    const MISSING_ACCESS_TOKEN: Self =
        Self::malformed(Class::Unauthenticated, "missing access token");
    pub(crate) const MISSING_REQUEST_BODY: Self = Self::invalid("missing request body");
    pub(crate) const INVALID_REQUEST_BODY: Self = Self::invalid("invalid request body");
    pub(crate) const INVALID_CONTEXT: Self =
        Self::invalid("failed to get additional rewrap context");
    pub(crate) const DUPLICATE_POLICY_ID: Self =
        Self::invalid("two policy entries have the same policy id");
    pub(crate) const DUPLICATE_KAO_ID: Self =
        Self::invalid("two key access objects of one policy have the same id");

    // Of a bound.
    pub(crate) const SRT_TOO_LARGE: Self =
        Self::exhausted("resource exhausted: signed request token too large");
    pub(crate) const TOO_MANY_KAOS: Self =
        Self::exhausted("resource exhausted: too many key access objects in one request");
    pub(crate) const TOO_MANY_POLICIES: Self =
        Self::exhausted("resource exhausted: too many policies in one request");
    pub(crate) const TOO_MANY_REQUESTS: Self =
        Self::exhausted("resource exhausted: too many requests under way, try again later");

    // Of one key access object.
    pub(crate) const BAD_REQUEST: Self = Self {
        class: Class::InvalidArgument,
        desc: Cow::Borrowed("bad request"),
        outcome: AuditOutcome::Tampered,
    };
    pub(crate) const FORBIDDEN_NO_DECISION_SERVICE: Self =
        Self::denied("forbidden: no decision service is configured for policies with attributes");
    pub(crate) const FORBIDDEN: Self = Self::denied("forbidden");
    pub(crate) const FORBIDDEN_WITHOUT_ATTRIBUTES: Self =
        Self::denied("forbidden: policies without attributes are not opened here");
    /// The decision service does not want to decide.
    pub(crate) const DECISION_REFUSED: Self = Self::denied("forbidden: pdp-denied");
    pub(crate) const DECISION_UNAVAILABLE: Self = Self {
        class: Class::Internal,
        desc: Cow::Borrowed("internal: auth-service-unavailable"),
        outcome: AuditOutcome::Unavailable,
    };
    pub(crate) const DECISION_CANCELLED: Self = Self {
        class: Class::Internal,
        desc: Cow::Borrowed("internal: context-cancelled"),
        outcome: AuditOutcome::Cancelled,
    };
    /// The audit log could not take the event that had to be kept first.
    pub(crate) const AUDIT_UNAVAILABLE: Self = Self {
        class: Class::Unavailable,
        desc: Cow::Borrowed("audit log unavailable"),
        outcome: AuditOutcome::Unavailable,
    };
    pub(crate) const AUDIT_BUSY: Self = Self::exhausted("audit log busy");
    pub(crate) const HYBRID_NOT_ENABLED: Self = Self::invalid("hybrid-wrapped not enabled");
    pub(crate) const INVALID_EPHEMERAL_KEY: Self = Self::invalid("invalid ephemeral public key");
    /// The client's key is on a curve that no data key can be encrypted to.
    pub(crate) const INVALID_REQUEST: Self = Self::invalid("invalid request");
    pub(crate) const KAO_MISSING: Self = Self::invalid("key access object is nil");
    pub(crate) const MISSING_BINDING: Self = Self::invalid("missing policy binding");
    pub(crate) const MISSING_POLICY: Self = Self::invalid("missing policy");
    pub(crate) const MISSING_POLICY_ID: Self = Self::invalid("missing policy id");
    pub(crate) const MLKEM_NOT_ENABLED: Self = Self::invalid("mlkem-wrapped not enabled");
    pub(crate) const NO_LEGACY_KEYS: Self = Self::invalid("no legacy key IDs found");
    pub(crate) const UNSUPPORTED_BINDING: Self =
        Self::invalid("unsupported policy binding algorithm");
    pub(crate) const UNSUPPORTED_KEY_TYPE: Self = Self::invalid("unsupported key type");
    pub(crate) const WRAPPED_KEY_EMPTY: Self = Self::invalid("wrapped key is empty");

    const fn invalid(desc: &'static str) -> Self {
        Self::malformed(Class::InvalidArgument, desc)
    }

    const fn malformed(class: Class, desc: &'static str) -> Self {
        Self { class, desc: Cow::Borrowed(desc), outcome: AuditOutcome::Malformed }
    }

    const fn denied(desc: &'static str) -> Self {
        Self {
            class: Class::PermissionDenied,
            desc: Cow::Borrowed(desc),
            outcome: AuditOutcome::Denied,
        }
    }

    const fn exhausted(desc: &'static str) -> Self {
        Self {
            class: Class::ResourceExhausted,
            desc: Cow::Borrowed(desc),
            outcome: AuditOutcome::Busy,
        }
    }

    /// The caller does not prove well enough that the token is theirs.
    pub(crate) fn proof_required(needed: Proof) -> Self {
        let desc = match needed {
            Proof::Mtls => "forbidden: this key needs a token bound to a client certificate",
            Proof::Dpop | Proof::Bearer => {
                "forbidden: this key needs a token bound to a key, with a proof of possession"
            }
        };
        Self::denied(desc)
    }

    /// The client's key was refused. A curve that is not supported fails each key access object
    /// instead of the request.
    pub(crate) fn client_key(error: PublicKeyError) -> Self {
        match error {
            PublicKeyError::NoPem => Self::invalid("clientPublicKey failure"),
            PublicKeyError::Malformed => Self::invalid("clientPublicKey parse failure"),
            PublicKeyError::UnsupportedType => Self::invalid("clientPublicKey unsupported type"),
            PublicKeyError::UnsupportedCurve => Self::INVALID_REQUEST,
            PublicKeyError::Refused(reason) => Self {
                desc: Cow::Owned(format!("clientPublicKey refused: {reason}")),
                ..Self::INVALID_REQUEST
            },
        }
    }

    /// Whether access was decided, and refused.
    pub(crate) fn is_denial(&self) -> bool {
        *self == Self::FORBIDDEN
    }

    /// The fault of one key access object, for `KeyAccessRewrapResult.error`.
    pub(crate) fn kao_text(&self) -> String {
        format!("{}: {}", self.class.snake_case(), self.message())
    }

    /// The fault of a whole request.
    pub(crate) fn status(&self) -> Status {
        Status::new(self.class.code(), self.message())
    }

    fn message(&self) -> String {
        let kind = if self.class.is_ours() { "internal error" } else { "request error" };
        format!("{kind}\nrpc error: code = {} desc = {}", self.class.camel_case(), self.desc)
    }
}

impl Class {
    fn code(self) -> Code {
        match self {
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::Internal => Code::Internal,
            Self::InvalidArgument => Code::InvalidArgument,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Unavailable => Code::Unavailable,
            Self::Unimplemented => Code::Unimplemented,
        }
    }

    fn snake_case(self) -> &'static str {
        match self {
            Self::FailedPrecondition => "failed_precondition",
            Self::Internal => "internal",
            Self::InvalidArgument => "invalid_argument",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unimplemented => "unimplemented",
        }
    }

    fn camel_case(self) -> &'static str {
        match self {
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Internal => "Internal",
            Self::InvalidArgument => "InvalidArgument",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Unauthenticated => "Unauthenticated",
            Self::Unavailable => "Unavailable",
            Self::Unimplemented => "Unimplemented",
        }
    }

    /// Whether the code's HTTP status is in the 500s.
    fn is_ours(self) -> bool {
        matches!(self, Self::Internal | Self::Unavailable | Self::Unimplemented)
    }
}

/// What a key manager or the key index answered. `Unsupported` is `Unimplemented`: the request
/// is sound, but this server's key cannot do what it asks.
impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let (class, desc, outcome) = match error {
            Error::Busy => (Class::ResourceExhausted, "key manager busy", AuditOutcome::Busy),
            Error::Decrypt => return Self::BAD_REQUEST,
            // No rewrap makes a key, so `Exists` would be a defect here.
            Error::Internal(_) | Error::Exists(_) => {
                (Class::Internal, "internal error", AuditOutcome::Internal)
            }
            Error::NotFound(_) => {
                return Self { outcome: AuditOutcome::NotFound, ..Self::BAD_REQUEST };
            }
            Error::NotPermitted(reason) => {
                (Class::FailedPrecondition, *reason, AuditOutcome::NotPermitted)
            }
            Error::Unavailable(_) => {
                (Class::Unavailable, "key manager unavailable", AuditOutcome::Unavailable)
            }
            Error::Unsupported(reason) => {
                (Class::Unimplemented, *reason, AuditOutcome::Unsupported)
            }
        };
        Self { class, desc: Cow::Borrowed(desc), outcome }
    }
}

/// Logs what went wrong on this side, and says what the client may know of it.
pub(crate) fn report(error: &Error) -> Fault {
    match error {
        Error::Internal(source) => {
            tracing::error!(error = source.as_ref() as &dyn std::error::Error, "internal error");
        }
        Error::Unavailable(source) => {
            let error = source.as_ref() as &dyn std::error::Error;
            tracing::warn!(error, "key manager unavailable");
        }
        _ => {}
    }
    Fault::from(error)
}

/// Nobody looked at the access token.
pub(crate) fn missing_access_token() -> Status {
    Fault::MISSING_ACCESS_TOKEN.status()
}

/// Why there is no public key to hand out; these messages lack the `rpc error` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublicKeyFault {
    /// `LegacyPublicKey`: the index failed.
    LegacyLookup,
    /// `LegacyPublicKey`: no such algorithm.
    LegacyAlgorithm,
    /// The index failed.
    Lookup,
    /// There is no key for the algorithm.
    NoKeyForAlgorithm,
    /// There are no keys.
    NoKeys,
    /// The index or the manager of the key is down; the same request may succeed later.
    Unavailable,
    /// A format other than PEM and JWK.
    UnknownFormat,
}

impl From<PublicKeyFault> for Status {
    fn from(fault: PublicKeyFault) -> Self {
        match fault {
            PublicKeyFault::LegacyLookup => Self::internal("invalid config\nconfiguration error"),
            PublicKeyFault::LegacyAlgorithm => Self::not_found("invalid config\ninvalid algorithm"),
            PublicKeyFault::Lookup => Self::internal("internal error"),
            PublicKeyFault::NoKeyForAlgorithm => {
                Self::not_found("invalid config\nno default key for algorithm")
            }
            PublicKeyFault::NoKeys => Self::not_found("invalid config\nno default keys configured"),
            PublicKeyFault::Unavailable => Self::unavailable("key manager unavailable"),
            PublicKeyFault::UnknownFormat => Self::not_found("invalid algorithm or format"),
        }
    }
}

#[cfg(test)]
mod tests {
    use kasbah_trust::KeyId;

    use super::*;

    fn every_trust_error() -> Vec<(Error, &'static str)> {
        vec![
            (
                Error::Busy,
                "resource_exhausted: request error\nrpc error: code = ResourceExhausted desc = \
                 key manager busy",
            ),
            (
                Error::Decrypt,
                "invalid_argument: request error\nrpc error: code = InvalidArgument desc = bad \
                 request",
            ),
            (
                Error::internal("a secret path"),
                "internal: internal error\nrpc error: code = Internal desc = internal error",
            ),
            (
                Error::NotFound(KeyId::from("r1")),
                "invalid_argument: request error\nrpc error: code = InvalidArgument desc = bad \
                 request",
            ),
            (
                Error::NotPermitted("custody"),
                "failed_precondition: request error\nrpc error: code = FailedPrecondition desc = \
                 custody",
            ),
            (
                Error::unavailable("a host name"),
                "unavailable: internal error\nrpc error: code = Unavailable desc = key manager \
                 unavailable",
            ),
            (
                Error::Unsupported("P-521"),
                "unimplemented: internal error\nrpc error: code = Unimplemented desc = P-521",
            ),
        ]
    }

    #[test]
    fn trust_errors_have_their_exact_texts() {
        for (error, text) in every_trust_error() {
            assert_eq!(Fault::from(&error).kao_text(), text);
        }
    }

    #[test]
    fn only_tamper_outcomes_say_bad_request() {
        let described = [
            Fault::COULD_NOT_PARSE_TOKEN,
            Fault::UNABLE_TO_VERIFY_TOKEN,
            Fault::MISSING_ACCESS_TOKEN,
            Fault::FORBIDDEN,
            Fault::FORBIDDEN_WITHOUT_ATTRIBUTES,
            Fault::DECISION_REFUSED,
            Fault::DECISION_UNAVAILABLE,
            Fault::DECISION_CANCELLED,
            Fault::AUDIT_UNAVAILABLE,
            Fault::AUDIT_BUSY,
            Fault::proof_required(Proof::Dpop),
            Fault::proof_required(Proof::Mtls),
            Fault::MISSING_REQUEST_BODY,
            Fault::INVALID_REQUEST_BODY,
            Fault::INVALID_CONTEXT,
            Fault::DUPLICATE_POLICY_ID,
            Fault::DUPLICATE_KAO_ID,
            Fault::SRT_TOO_LARGE,
            Fault::TOO_MANY_KAOS,
            Fault::TOO_MANY_POLICIES,
            Fault::TOO_MANY_REQUESTS,
            Fault::FORBIDDEN_NO_DECISION_SERVICE,
            Fault::HYBRID_NOT_ENABLED,
            Fault::INVALID_EPHEMERAL_KEY,
            Fault::INVALID_REQUEST,
            Fault::KAO_MISSING,
            Fault::MISSING_BINDING,
            Fault::MISSING_POLICY,
            Fault::MISSING_POLICY_ID,
            Fault::MLKEM_NOT_ENABLED,
            Fault::NO_LEGACY_KEYS,
            Fault::UNSUPPORTED_BINDING,
            Fault::UNSUPPORTED_KEY_TYPE,
            Fault::WRAPPED_KEY_EMPTY,
            Fault::client_key(PublicKeyError::Malformed),
            Fault::client_key(PublicKeyError::NoPem),
            Fault::client_key(PublicKeyError::Refused("too short")),
            Fault::client_key(PublicKeyError::UnsupportedCurve),
            Fault::client_key(PublicKeyError::UnsupportedType),
        ];
        let from_trust = every_trust_error();
        let faults = from_trust.iter().map(|(error, _)| Fault::from(error)).chain(described);
        for fault in faults {
            let tamper = matches!(fault.outcome, AuditOutcome::Tampered | AuditOutcome::NotFound);
            assert_eq!(fault.kao_text().contains("bad request"), tamper, "{fault:?}");
        }
    }

    #[test]
    fn a_status_has_two_lines_and_no_code_in_front() {
        let status = Fault::INVALID_REQUEST_BODY.status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "request error\nrpc error: code = InvalidArgument desc = invalid request body"
        );
    }
}
