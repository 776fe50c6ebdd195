//! What keys and data keys look like inside a token.
//!
//! The *hardened* template is what makes a holder of the PIN unable to read data keys with one
//! call; [`hardened_gaps`] says how far a key is from it. With fewer lines, setting `DECRYPT`
//! afterwards, copying the key, or unwrapping into a readable object would each do.

use cryptoki::{
    error::Error as Cryptoki,
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_ULONG, CKA_ALLOWED_MECHANISMS, CKA_CLASS, CKA_KEY_TYPE, CKK_EC, CKK_RSA,
    CKM_ECDH1_DERIVE, CKM_RSA_PKCS_OAEP, CKO_PRIVATE_KEY,
};
use kasbah_crypto::{Algorithm, Curve, ec::EcPublicKey, rsa::RsaPublicKey};

use crate::ffi::{self, Demand};

/// Length of a data key, and of an AES-256 key, in bytes.
const DEK_LEN: CK_ULONG = 32;

/// 65537, unsigned big-endian.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];

/// A boolean attribute, short of its value.
type Flag = fn(bool) -> Attribute;

/// What `CKA_UNWRAP_TEMPLATE` of a hardened key demands of every key it unwraps. `MODIFIABLE` is
/// last: SoftHSM refuses every line after it.
const DEK_FLAGS: [(Flag, bool); 13] = [
    (Attribute::Token, false),
    (Attribute::Wrap, false),
    (Attribute::Unwrap, false),
    (Attribute::Encrypt, false),
    (Attribute::Decrypt, false),
    (Attribute::Derive, false),
    (Attribute::Private, true),
    (Attribute::Sensitive, true),
    (Attribute::Extractable, true),
    (Attribute::Sign, true),
    (Attribute::Verify, true),
    (Attribute::Copyable, false),
    (Attribute::Modifiable, false),
];

/// How a module wants to be asked to unwrap a data key; the self-test keeps the first that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DekTemplate {
    /// With `VALUE_LEN`, which fixes the length of the data key. Not on SoftHSM.
    WithLength,
    /// Without it.
    WithoutLength,
}

impl DekTemplate {
    /// In the order to try them.
    pub const ALL: [Self; 2] = [Self::WithLength, Self::WithoutLength];

    /// The template of `C_UnwrapKey`: a generic secret that signs (HMAC) and can be wrapped, and
    /// nothing else. Repeats every line of the hardened key's `UNWRAP_TEMPLATE`, as SoftHSM wants.
    pub fn attributes(self) -> Vec<Attribute> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
        ];
        if self == Self::WithLength {
            template.push(value_len());
        }
        template.extend(DEK_FLAGS.map(|(line, value)| line(value)));
        template
    }
}

/// Unwraps that a hardened key must refuse, by what they would be good for: read the data key,
/// keep it, wrap a victim's data key under a known one.
pub fn forbidden_unwraps() -> [(&'static str, Vec<Attribute>); 3] {
    let demanded = |change| with(DekTemplate::WithoutLength.attributes(), &change);
    let wrapping = with(demanded(Attribute::Wrap(true)), &Attribute::KeyType(KeyType::AES));
    [
        ("unwrap into a readable object", demanded(Attribute::Sensitive(false))),
        ("unwrap into a token object", demanded(Attribute::Token(true))),
        ("unwrap into a wrapping key", wrapping),
    ]
}

/// A long-term RSA private key: good for OAEP unwraps of data keys and nothing else.
pub(crate) fn hardened_rsa_private(label: &str, id: &[u8]) -> Vec<Attribute> {
    let mut template = named(ObjectClass::PRIVATE_KEY, KeyType::RSA, label, id);
    template.push(Attribute::Token(true));
    template.extend(hardened_rsa().map(|(_, line)| line));
    template.push(dek_template());
    template
}

/// `CKA_UNWRAP_TEMPLATE` of an RSA private key.
fn dek_template() -> Attribute {
    ffi::unwrap_template(DEK_FLAGS.map(demand))
}

fn demand((line, value): (Flag, bool)) -> (CK_ATTRIBUTE_TYPE, Demand) {
    (line(value).attribute_type().into(), Demand::Flag(value))
}

/// A long-term EC private key. Nothing on SoftHSM or Kryoptic stops a holder of the PIN from
/// deriving a readable secret with it.
pub(crate) fn hardened_ec_private(label: &str, id: &[u8]) -> Vec<Attribute> {
    let mut template = named(ObjectClass::PRIVATE_KEY, KeyType::EC, label, id);
    template.push(Attribute::Token(true));
    template.extend(hardened_ec().map(|(_, line)| line));
    template
}

/// What a wrapped private key is for: flags and wrapping keys differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Family {
    Rsa = 1,
    Ec = 2,
}

impl Family {
    pub(crate) fn of(algorithm: Algorithm) -> Self {
        if algorithm.is_rsa() { Self::Rsa } else { Self::Ec }
    }

    /// Flags of a private key that is opened into the token; `MODIFIABLE` comes after them.
    fn flags(self) -> [(Flag, bool); 10] {
        let is_rsa = self == Self::Rsa;
        [
            (Attribute::Token, false),
            (Attribute::Private, true),
            (Attribute::Sensitive, true),
            (Attribute::Extractable, false),
            (Attribute::Unwrap, is_rsa),
            (Attribute::Derive, !is_rsa),
            (Attribute::Decrypt, false),
            (Attribute::Sign, false),
            (Attribute::SignRecover, false),
            (Attribute::Copyable, false),
        ]
    }

    fn key_type(self) -> (KeyType, &'static CK_ULONG) {
        match self {
            Self::Rsa => (KeyType::RSA, &CKK_RSA),
            Self::Ec => (KeyType::EC, &CKK_EC),
        }
    }

    fn mechanism(self) -> (MechanismType, &'static CK_ULONG) {
        match self {
            Self::Rsa => (MechanismType::RSA_PKCS_OAEP, &CKM_RSA_PKCS_OAEP),
            Self::Ec => (MechanismType::ECDH1_DERIVE, &CKM_ECDH1_DERIVE),
        }
    }
}

/// A wrapped private key, opened: the hardened template on a session object.
pub(crate) fn opened_private(family: Family) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(family.key_type().0),
        Attribute::AllowedMechanisms(vec![family.mechanism().0]),
    ];
    template.extend(family.flags().map(|(line, value)| line(value)));
    if family == Family::Rsa {
        template.push(dek_template());
    }
    template.push(Attribute::Modifiable(false));
    template
}

/// The same key between being made and being wrapped.
pub(crate) fn unwrapped_private(family: Family) -> Vec<Attribute> {
    with(opened_private(family), &Attribute::Extractable(true))
}

/// A key that wraps private keys and opens them as [`opened_private`] only. It cannot demand
/// *their* `UNWRAP_TEMPLATE`: no module takes one inside another.
pub(crate) fn wrapping_key(
    family: Family,
    label: &str,
    mechanism: MechanismType,
) -> Vec<Attribute> {
    let fixed = [
        (CKA_CLASS, Demand::Number(&CKO_PRIVATE_KEY)),
        (CKA_KEY_TYPE, Demand::Number(family.key_type().1)),
        (CKA_ALLOWED_MECHANISMS, Demand::Number(family.mechanism().1)),
    ];
    let flags = family.flags().into_iter().chain([(Attribute::Modifiable as Flag, false)]);
    let demands = fixed.into_iter().chain(flags.map(demand));
    let mut template = token_secret(KeyType::AES, label, mechanism);
    template.extend([
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        ffi::unwrap_template(demands),
        Attribute::Modifiable(false),
    ]);
    template
}

/// The key that vouches for stored records.
pub(crate) fn mac_key(label: &str) -> Vec<Attribute> {
    let mut template = token_secret(KeyType::GENERIC_SECRET, label, MechanismType::SHA256_HMAC);
    template.extend([
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(true),
        Attribute::Verify(true),
        Attribute::Modifiable(false),
    ]);
    template
}

/// A secret key of 32 bytes that stays in the token.
fn token_secret(kind: KeyType, label: &str, mechanism: MechanismType) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Label(label.into()),
        value_len(),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
        Attribute::Copyable(false),
        Attribute::AllowedMechanisms(vec![mechanism]),
    ]
}

/// Ways to open a private key that a wrapping key must refuse, by what they would be good for.
pub(crate) fn forbidden_openings(family: Family) -> [(&'static str, Vec<Attribute>); 3] {
    let readable = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    [
        ("into a readable object", readable),
        ("into a token object", with(opened_private(family), &Attribute::Token(true))),
        ("into a signing key", with(opened_private(family), &Attribute::Sign(true))),
    ]
}

fn with(mut template: Vec<Attribute>, change: &Attribute) -> Vec<Attribute> {
    for line in &mut template {
        if line.attribute_type() == change.attribute_type() {
            *line = change.clone();
        }
    }
    template
}

/// Public half of a private key that is to be wrapped, for as long as that takes.
pub(crate) fn session_public(algorithm: Algorithm) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Verify(false),
    ];
    match algorithm {
        Algorithm::Rsa2048 => template.extend(rsa_numbers(2048)),
        Algorithm::Rsa4096 => template.extend(rsa_numbers(4096)),
        Algorithm::Ec(curve) => template.push(Attribute::EcParams(curve_oid(curve).to_vec())),
    }
    template
}

/// What a token needs to know to make an RSA key: its size, and the exponent 65537.
pub(crate) fn rsa_numbers(bits: CK_ULONG) -> [Attribute; 2] {
    [Attribute::ModulusBits(bits.into()), Attribute::PublicExponent(PUBLIC_EXPONENT.to_vec())]
}

/// Public half of a long-term RSA key; `WRAP` and `ENCRYPT` let a canary be made in the token.
pub(crate) fn rsa_public(label: &str, id: &[u8]) -> Vec<Attribute> {
    let mut template = named(ObjectClass::PUBLIC_KEY, KeyType::RSA, label, id);
    template.extend([
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::Verify(false),
    ]);
    template
}

/// Public half of a long-term EC key.
pub(crate) fn ec_public(curve: Curve, label: &str, id: &[u8]) -> Vec<Attribute> {
    let mut template = named(ObjectClass::PUBLIC_KEY, KeyType::EC, label, id);
    template.extend([
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(false),
        Attribute::EcParams(curve_oid(curve).to_vec()),
    ]);
    template
}

/// A client's RSA key, imported for one response.
pub fn client_rsa(key: &RsaPublicKey) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Modulus(key.modulus().to_vec()),
        Attribute::PublicExponent(key.exponent().to_vec()),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
    ]
}

/// Public and private template of the ephemeral key pair of one response.
pub fn ephemeral_ec(curve: Curve) -> (Vec<Attribute>, Vec<Attribute>) {
    let public = vec![
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::EcParams(curve_oid(curve).to_vec()),
    ];
    let private = vec![
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(true),
    ];
    (public, private)
}

/// Who may see an ECDH secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Secrecy {
    /// The host: it is read and the rest happens in software (transient custody).
    Readable,
    /// The token alone.
    Sensitive,
}

/// An ECDH secret. No `VALUE_LEN`: modules would keep the trailing bytes of a longer one, which is
/// not what HKDF takes.
pub fn ecdh_secret(secrecy: Secrecy) -> Vec<Attribute> {
    let sensitive = secrecy == Secrecy::Sensitive;
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(!sensitive),
        Attribute::Derive(sensitive),
    ]
}

/// What a key derived by HKDF is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HkdfUse {
    /// Unwrapping a request's data key.
    Unwrap,
    /// Wrapping the data key of a response.
    Wrap,
}

/// The AES-256 key that HKDF yields.
pub fn hkdf_key(purpose: HkdfUse) -> Vec<Attribute> {
    let mut template = session_aes();
    template.push(match purpose {
        HkdfUse::Unwrap => Attribute::Unwrap(true),
        HkdfUse::Wrap => Attribute::Wrap(true),
    });
    template
}

/// A throw-away AES-256 key for AES-KW: wrapping a data key under it tells its length (32 bytes
/// give 40) where the token does not.
pub fn length_probe_key() -> Vec<Attribute> {
    let mut template = session_aes();
    template.push(Attribute::Wrap(true));
    template
}

fn session_aes() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        value_len(),
    ]
}

/// The lines of the hardened template that a private key lacks, unreadable ones included; empty
/// for a hardened key.
///
/// `UNWRAP_TEMPLATE` cannot be read back through the `cryptoki` crate; that it works is shown by
/// trying [`forbidden_unwraps`]. For EC keys an empty answer means that the key cannot be weakened,
/// not that it enforces custody: its secrets can always be derived readable.
///
/// # Errors
/// When the object cannot be read at all.
pub fn hardened_gaps(session: &Session, key: ObjectHandle) -> Result<Vec<&'static str>, Cryptoki> {
    gaps(session, key, ("TOKEN=true", Attribute::Token(true)))
}

/// The same for a private key that was opened into the token.
pub(crate) fn opened_gaps(
    session: &Session,
    key: ObjectHandle,
) -> Result<Vec<&'static str>, Cryptoki> {
    gaps(session, key, ("TOKEN=false", Attribute::Token(false)))
}

fn gaps(
    session: &Session,
    key: ObjectHandle,
    place: (&'static str, Attribute),
) -> Result<Vec<&'static str>, Cryptoki> {
    let mut gaps = Vec::new();
    let kind = session.get_attributes(key, &[AttributeType::KeyType])?;
    let lines = match kind[..] {
        [Attribute::KeyType(KeyType::EC)] => hardened_ec(),
        _ => hardened_rsa(),
    };
    for (name, line) in [place].into_iter().chain(lines) {
        if !has(session, key, &line)? {
            gaps.push(name);
        }
    }
    Ok(gaps)
}

fn has(session: &Session, key: ObjectHandle, expected: &Attribute) -> Result<bool, Cryptoki> {
    match session.get_attributes(key, &[expected.attribute_type()]) {
        Ok(found) => Ok(found.first() == Some(expected)),
        Err(error @ Cryptoki::Pkcs11(..)) => Err(error),
        // A value that the crate has no name for is not the expected one.
        Err(_) => Ok(false),
    }
}

/// The readable lines of the hardened RSA template, beside where the key is.
fn hardened_rsa() -> [(&'static str, Attribute); 11] {
    [
        ("PRIVATE=true", Attribute::Private(true)),
        ("SENSITIVE=true", Attribute::Sensitive(true)),
        ("UNWRAP=true", Attribute::Unwrap(true)),
        ("EXTRACTABLE=false", Attribute::Extractable(false)),
        ("DECRYPT=false", Attribute::Decrypt(false)),
        ("SIGN=false", Attribute::Sign(false)),
        ("SIGN_RECOVER=false", Attribute::SignRecover(false)),
        ("DERIVE=false", Attribute::Derive(false)),
        ("MODIFIABLE=false", Attribute::Modifiable(false)),
        ("COPYABLE=false", Attribute::Copyable(false)),
        (
            "ALLOWED_MECHANISMS={RSA_PKCS_OAEP}",
            Attribute::AllowedMechanisms(vec![MechanismType::RSA_PKCS_OAEP]),
        ),
    ]
}

/// The same for EC: good for ECDH and nothing else.
fn hardened_ec() -> [(&'static str, Attribute); 11] {
    [
        ("PRIVATE=true", Attribute::Private(true)),
        ("SENSITIVE=true", Attribute::Sensitive(true)),
        ("DERIVE=true", Attribute::Derive(true)),
        ("EXTRACTABLE=false", Attribute::Extractable(false)),
        ("DECRYPT=false", Attribute::Decrypt(false)),
        ("SIGN=false", Attribute::Sign(false)),
        ("SIGN_RECOVER=false", Attribute::SignRecover(false)),
        ("UNWRAP=false", Attribute::Unwrap(false)),
        ("MODIFIABLE=false", Attribute::Modifiable(false)),
        ("COPYABLE=false", Attribute::Copyable(false)),
        (
            "ALLOWED_MECHANISMS={ECDH1_DERIVE}",
            Attribute::AllowedMechanisms(vec![MechanismType::ECDH1_DERIVE]),
        ),
    ]
}

fn named(class: ObjectClass, kind: KeyType, label: &str, id: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Class(class),
        Attribute::KeyType(kind),
        Attribute::Label(label.into()),
        Attribute::Id(id.into()),
    ]
}

fn value_len() -> Attribute {
    Attribute::ValueLen(Ulong::from(DEK_LEN))
}

/// `CKA_EC_PARAMS` of a curve: its name as a DER object identifier (SEC 2, RFC 5480).
pub(crate) fn curve_oid(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
    }
}

/// `CKA_EC_POINT` of a key: its SEC 1 point as a DER OCTET STRING.
pub(crate) fn ec_point(key: &EcPublicKey) -> Vec<u8> {
    let point = key.point();
    [octet_string_header(point.len()), point].concat()
}

/// The key in a `CKA_EC_POINT`.
pub(crate) fn ec_key(curve: Curve, value: &[u8]) -> Option<EcPublicKey> {
    let len = 1 + 2 * curve.field_len();
    // Some modules leave the OCTET STRING out.
    let point = value.strip_prefix(octet_string_header(len)).filter(|point| point.len() == len);
    EcPublicKey::from_sec1(curve, point.unwrap_or(value)).ok()
}

/// Tag and length in front of an uncompressed point of one of our curves.
fn octet_string_header(len: usize) -> &'static [u8] {
    match len {
        65 => &[0x04, 65],
        97 => &[0x04, 97],
        _ => &[0x04, 0x81, 133],
    }
}

/// The curve of a `CKA_EC_PARAMS`, if it is one of ours.
pub(crate) fn curve_of(params: &[u8]) -> Option<Curve> {
    [Curve::P256, Curve::P384, Curve::P521].into_iter().find(|&curve| curve_oid(curve) == params)
}
