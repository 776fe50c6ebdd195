//! The checks of one key access object that need neither a decision nor a key.

use kasbah_trust::{KeyId, PolicyBinding, PublicKey, WrappedDek};

use crate::{
    body::{Binding, Kao},
    edge::Fault,
};

/// A key access object whose form is sound.
#[derive(Debug)]
pub(crate) struct Checked {
    /// `None` asks for a legacy key.
    pub(crate) kid: Option<KeyId>,
    pub(crate) wrapped: WrappedDek,
    pub(crate) binding: PolicyBinding,
}

/// Checks the form, in the order in which clients expect to hear of faults.
pub(crate) fn check(kao: &Kao) -> Result<Checked, Fault> {
    if kao.wrapped_key.is_empty() {
        return Err(Fault::WRAPPED_KEY_EMPTY);
    }
    let (kid, wrapped) = wrapped(kao)?;
    let binding = binding(kao.binding.as_ref())?;
    Ok(Checked { kid, wrapped, binding })
}

fn wrapped(kao: &Kao) -> Result<(Option<KeyId>, WrappedDek), Fault> {
    let kid = KeyId::from(kao.kid.as_str());
    let bytes = kao.wrapped_key.clone();
    match kao.key_type.as_str() {
        "wrapped" => Ok(((!kao.kid.is_empty()).then_some(kid), WrappedDek::Rsa(bytes))),
        "ec-wrapped" => match PublicKey::from_pem(&kao.ephemeral_public_key) {
            // There is no legacy key to guess: an empty kid is looked up, and not found.
            Ok(PublicKey::Ec(ephemeral)) => {
                Ok((Some(kid), WrappedDek::Ec { blob: bytes, ephemeral }))
            }
            Ok(PublicKey::Rsa(_)) | Err(_) => Err(Fault::INVALID_EPHEMERAL_KEY),
        },
        "hybrid-wrapped" => Err(Fault::HYBRID_NOT_ENABLED),
        "mlkem-wrapped" => Err(Fault::MLKEM_NOT_ENABLED),
        _ => Err(Fault::UNSUPPORTED_KEY_TYPE),
    }
}

fn binding(binding: Option<&Binding>) -> Result<PolicyBinding, Fault> {
    let binding = binding.ok_or(Fault::MISSING_BINDING)?;
    if !matches!(binding.algorithm.as_str(), "" | "HS256") {
        return Err(Fault::UNSUPPORTED_BINDING);
    }
    PolicyBinding::parse(&binding.hash).map_err(|_| Fault::BAD_REQUEST)
}
