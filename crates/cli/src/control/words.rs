//! The words people use for what the wire has numbers for.

use std::str::FromStr;

use kasbah_proto::policy;
use kasbah_trust::{Algorithm, Curve};

/// Where the private half of a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// In the registry, wrapped by a root key of the server
    Local,
    /// In the registry, wrapped by a key in the provider's device
    Provider,
    /// In the provider's device, which it never leaves
    Remote,
    /// Unknown here: a key of a foreign key access server
    #[value(name = "public_key")]
    PublicKey,
}

impl Mode {
    /// As on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Provider => "provider",
            Self::Remote => "remote",
            Self::PublicKey => "public_key",
        }
    }

    /// As on the wire.
    pub(crate) fn wire(self) -> policy::KeyMode {
        match self {
            Self::Local => policy::KeyMode::ConfigRootKey,
            Self::Provider => policy::KeyMode::ProviderRootKey,
            Self::Remote => policy::KeyMode::Remote,
            Self::PublicKey => policy::KeyMode::PublicKeyOnly,
        }
    }
}

/// An algorithm on the command line, in upper or lower case.
pub(crate) fn parse_algorithm(text: &str) -> Result<Algorithm, <Algorithm as FromStr>::Err> {
    text.to_ascii_lowercase().parse()
}

/// An algorithm on the wire.
pub(crate) fn wire_algorithm(algorithm: Algorithm) -> policy::Algorithm {
    match algorithm {
        Algorithm::Rsa2048 => policy::Algorithm::Rsa2048,
        Algorithm::Rsa4096 => policy::Algorithm::Rsa4096,
        Algorithm::Ec(Curve::P256) => policy::Algorithm::EcP256,
        Algorithm::Ec(Curve::P384) => policy::Algorithm::EcP384,
        Algorithm::Ec(Curve::P521) => policy::Algorithm::EcP521,
    }
}

/// The word for an algorithm on the wire.
pub(crate) fn algorithm(number: i32) -> &'static str {
    use policy::Algorithm as Wire;
    match Wire::try_from(number).unwrap_or_default() {
        Wire::Unspecified => "unknown",
        Wire::Rsa2048 => "rsa:2048",
        Wire::Rsa4096 => "rsa:4096",
        Wire::EcP256 => "ec:secp256r1",
        Wire::EcP384 => "ec:secp384r1",
        Wire::EcP521 => "ec:secp521r1",
        Wire::HpqtXwing => "hpqt:xwing",
        Wire::HpqtSecp256r1Mlkem768 => "hpqt:secp256r1-mlkem768",
        Wire::HpqtSecp384r1Mlkem1024 => "hpqt:secp384r1-mlkem1024",
        Wire::Mlkem768 => "mlkem:768",
        Wire::Mlkem1024 => "mlkem:1024",
    }
}

/// The word for a mode on the wire.
pub(crate) fn mode(number: i32) -> &'static str {
    use policy::KeyMode as Wire;
    match Wire::try_from(number).unwrap_or_default() {
        Wire::Unspecified => "unknown",
        Wire::ConfigRootKey => Mode::Local.word(),
        Wire::ProviderRootKey => Mode::Provider.word(),
        Wire::Remote => Mode::Remote.word(),
        Wire::PublicKeyOnly => Mode::PublicKey.word(),
    }
}

/// The word for a status on the wire.
pub(crate) fn status(number: i32) -> &'static str {
    use policy::KeyStatus as Wire;
    match Wire::try_from(number).unwrap_or_default() {
        Wire::Unspecified => "unknown",
        Wire::Active => "active",
        Wire::Rotated => "rotated",
        Wire::Disabled => "disabled",
        Wire::Compromised => "compromised",
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn an_algorithm_has_one_word_in_and_out() {
        for known in Algorithm::ALL {
            assert_eq!(algorithm(wire_algorithm(known).into()), known.as_str());
            assert_eq!(parse_algorithm(&known.as_str().to_uppercase()), Ok(known));
        }
        for text in ["", "rsa", "rsa:1024", "rsa:2048 "] {
            assert!(parse_algorithm(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mode_has_one_word_in_and_out() {
        for known in Mode::value_variants() {
            assert_eq!(mode(known.wire().into()), known.word());
            assert_eq!(Mode::from_str(known.word(), false), Ok(*known));
        }
    }

    #[test]
    fn a_number_of_the_future_is_unknown() {
        for word in [algorithm(99), mode(99), status(99), status(0)] {
            assert_eq!(word, "unknown");
        }
        assert_eq!(status(3), "disabled");
        assert_eq!(status(4), "compromised");
    }
}
