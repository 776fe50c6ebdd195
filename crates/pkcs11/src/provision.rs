//! Making, listing and destroying keys on a token: behind `kasbah hsm`, and behind the key store of
//! a manager.
//!
//! Keys are made with the hardened template of [`crate::template`]. Both halves carry the kid as
//! `CKA_LABEL` and the same `CKA_ID` of 16 bytes:
//! - of an imported key, the beginning of SHA-256 over its `SubjectPublicKeyInfo`;
//! - of a generated key, random bytes. The public key is not known before the pair exists, a key
//!   that cannot be modified takes no other id afterwards, and a copy with the right id can be made
//!   of a copyable key only and stays copyable (measured on SoftHSM 2.6.1 and Kryoptic 1.5.4). A
//!   key that cannot be copied or modified is worth more than an id that can be computed.

use std::sync::Arc;

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use cryptoki_sys::CK_ULONG;
use kasbah_crypto::{
    Algorithm, Curve, PrivateKeyParts, PublicKey, RsaParts, ec::EcPublicKey, rsa::RsaPublicKey,
};
use secrecy::ExposeSecret;
use zeroize::Zeroize;

use crate::{
    error::{Error, Result},
    module::Module,
    template,
    token::{self, FoundKey, Token, TokenSession},
    uri::KeyUri,
};

/// Length of a `CKA_ID`.
const ID_LEN: usize = 16;

/// Longest label, in bytes. PKCS#11 has no bound for keys; this is for people.
const MAX_LABEL_LEN: usize = 128;

/// A key as [`list`] shows it.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// `CKA_LABEL`; the kid, for keys made here.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// What it can serve; `None` for a key that no KAS algorithm fits.
    pub algorithm: Option<Algorithm>,
    /// What it lacks of the hardened template, see [`template::hardened_gaps`].
    pub gaps: Vec<&'static str>,
    /// The public half; `None` when the token has none that fits.
    pub public_key: Option<PublicKey>,
}

impl KeyEntry {
    /// A reference to this key, good for a keyring; `None` for a key without label and id.
    pub fn uri(&self) -> Option<KeyUri> {
        KeyUri::for_key(&self.label, &self.id)
    }
}

/// A key as [`inventory`] shows it, or what is left of one.
#[derive(Debug, Clone)]
pub struct StoredPair {
    /// The key; of a public half alone, what that says, and nothing in `gaps`.
    pub entry: KeyEntry,
    /// Whether the private half is there.
    pub has_private_key: bool,
    /// Whether the public half is there. An RSA key is of use without it.
    pub has_public_key: bool,
}

/// Makes a token labelled `label` of the first blank one in `module`.
///
/// # Errors
/// [`Error::Exists`] when the label is taken; [`Error::Token`] when no token is blank;
/// [`Error::Config`] when the label or a PIN is too short or too long.
pub fn init_token(
    module: &Arc<Module>,
    label: &str,
    so_pin: &AuthPin,
    pin: &AuthPin,
) -> Result<()> {
    // Labels are padded with blanks in the token.
    let is_padded = label.trim_end() != label;
    if label.is_empty() || label.len() > 32 || is_padded || label.chars().any(char::is_control) {
        return Err(Error::Config(
            "a token's label has 1 to 32 printable bytes and does not end in a blank".into(),
        ));
    }
    let _inside = module.enter();
    let slot = blank_slot(module, label, &[("user", pin), ("security officer's", so_pin)])?;
    let context = module.context();
    context.init_token(slot, so_pin, label).map_err(Error::during("initialising the token"))?;
    // SoftHSM moves a token to another slot when it is initialised.
    let slot = token::find_slot(module, label, None)?;
    let session = TokenSession::open(module, slot, true)?;
    session
        .login(UserType::So, Some(so_pin))
        .map_err(Error::during("logging in as security officer"))?;
    session.init_pin(pin).map_err(Error::during("setting the user PIN"))
}

/// Generates a key pair named `kid`.
///
/// # Errors
/// [`Error::Exists`] when a key of this label is there; [`Error::Config`] for an unusable kid;
/// [`Error::Call`] when the token refuses.
pub fn generate(token: &Token, kid: &str, algorithm: Algorithm) -> Result<KeyEntry> {
    check_kid(kid)?;
    let session = token.open_rw_session()?;
    refuse_taken(&session, token, &Attribute::Label(kid.into()), kid)?;
    let mut id = [0; ID_LEN];
    session.generate_random_slice(&mut id).map_err(Error::during("drawing an id"))?;
    let (mechanism, public, private) = match algorithm {
        Algorithm::Rsa2048 => rsa_pair(2048, kid, &id),
        Algorithm::Rsa4096 => rsa_pair(4096, kid, &id),
        Algorithm::Ec(curve) => ec_pair(curve, kid, &id),
    };
    let (public, private) = session
        .generate_key_pair(&mechanism, &public, &private)
        .map_err(Error::during("generating a key pair with the hardened template"))?;
    entry(&session, private).inspect_err(|_| discard(&session, &[public, private]))
}

/// Imports a private key as `kid`: PEM, PKCS#8 `PRIVATE KEY` or PKCS#1 `RSA PRIVATE KEY`.
///
/// The token then guards it like one of its own, but the file it came from, and whoever had it,
/// remain.
///
/// # Errors
/// [`Error::Exists`] when the label or the key is there; [`Error::Config`] for an unusable kid or a
/// key that is no KAS key; [`Error::Call`] when the token refuses.
pub fn import(token: &Token, kid: &str, pem: &str) -> Result<KeyEntry> {
    check_kid(kid)?;
    let refused = || {
        Error::Config(
            "not a private key that a KAS can use; expected an unencrypted PEM file with RSA of \
             2048 or 4096 bits or P-256, P-384 or P-521"
                .into(),
        )
    };
    let key = PrivateKeyParts::from_pem(pem).map_err(|_| refused())?;
    let public_key = key.public_key();
    if public_key.algorithm().is_none() {
        return Err(refused());
    }
    let id = &public_key.fingerprint()[..ID_LEN];
    let session = token.open_rw_session()?;
    refuse_taken(&session, token, &Attribute::Label(kid.into()), kid)?;
    refuse_taken(&session, token, &Attribute::Id(id.into()), kid)?;
    let private = session
        .create_object(&SecretTemplate::new(&key, kid, id).0)
        .map_err(Error::during("importing the private key with the hardened template"))?;
    let public = match &public_key {
        PublicKey::Rsa(key) => rsa_public_object(key, kid, id),
        PublicKey::Ec(key) => ec_public_object(key, kid, id),
    };
    let public = session
        .create_object(&public)
        .map_err(Error::during("importing the public key"))
        .inspect_err(|_| discard(&session, &[private]))?;
    entry(&session, private).inspect_err(|_| discard(&session, &[public, private]))
}

/// Every private key of the token, by label.
///
/// # Errors
/// [`Error::Call`] when the token cannot be read.
pub fn list(token: &Token) -> Result<Vec<KeyEntry>> {
    let session = token.open_session()?;
    let mut keys = token::private_keys(&session)?
        .into_iter()
        .map(|private| entry_of_any(&session, private))
        .collect::<Result<Vec<_>>>()?;
    keys.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    Ok(keys)
}

/// Every private key of the token and every public key that belongs to none, by label. A token
/// makes the halves of a pair one after the other, so that an interruption leaves one of them.
///
/// # Errors
/// [`Error::Call`] when the token cannot be read.
pub fn inventory(token: &Token) -> Result<Vec<StoredPair>> {
    let session = token.open_session()?;
    let mut orphans = token::objects(&session, ObjectClass::PUBLIC_KEY)?
        .into_iter()
        .map(|public| orphan(&session, public))
        .collect::<Result<Vec<_>>>()?;
    let mut pairs = Vec::new();
    for private in token::private_keys(&session)? {
        let entry = entry_of_any(&session, private)?;
        let before = orphans.len();
        orphans.retain(|orphan| !are_halves(&entry, &orphan.entry));
        let has_public_key = orphans.len() < before;
        pairs.push(StoredPair { entry, has_private_key: true, has_public_key });
    }
    pairs.append(&mut orphans);
    pairs.sort_by(|a, b| (&a.entry.label, &a.entry.id).cmp(&(&b.entry.label, &b.entry.id)));
    Ok(pairs)
}

/// Whether there is a half of a key labelled `kid`.
///
/// # Errors
/// [`Error::Call`] when the token cannot be read.
pub fn holds(token: &Token, kid: &str) -> Result<bool> {
    let session = token.open_session()?;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        if !labelled(&session, class, kid)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn labelled(session: &Session, class: ObjectClass, kid: &str) -> Result<Vec<ObjectHandle>> {
    session
        .find_objects(&[
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Label(kid.into()),
        ])
        .map_err(Error::during("searching for a key"))
}

/// Destroys both halves of the key labelled `kid`, the private one first; says how many objects
/// that were.
///
/// # Errors
/// [`Error::Key`], with nothing done, when more than one private key has this label;
/// [`Error::Call`] when the token refuses.
pub fn destroy(token: &Token, kid: &str) -> Result<usize> {
    let session = token.open_rw_session()?;
    let mut objects = labelled(&session, ObjectClass::PRIVATE_KEY, kid)?;
    if objects.len() > 1 {
        return Err(Error::Key(format!(
            "token {} has {} private keys labelled {kid}, so it is not clear which to destroy; \
             delete one by its id with a tool of the token's maker, see `kasbah hsm list`",
            token.label(),
            objects.len()
        )));
    }
    objects.extend(labelled(&session, ObjectClass::PUBLIC_KEY, kid)?);
    for &object in &objects {
        session.destroy_object(object).map_err(Error::during("destroying a key"))?;
    }
    Ok(objects.len())
}

/// Changes the user's PIN to `new`; the old one is what the token was opened with.
///
/// Sessions and logins that exist go on. Where the PIN is kept, it must be replaced before the
/// next login: every attempt with the old one brings the token nearer to locking.
///
/// # Errors
/// [`Error::Config`] when the new PIN is the old one, or is too short or too long; [`Error::Pin`]
/// when the old one cannot be read; [`Error::Call`] when the token refuses.
pub fn change_pin(token: &Token, new: &AuthPin) -> Result<()> {
    let old = token.read_pin()?;
    if old.expose_secret() == new.expose_secret() {
        return Err(Error::Config("the new PIN is the old one; choose another".into()));
    }
    let info = token
        .module()
        .context()
        .get_token_info(token.slot()?)
        .map_err(Error::during("reading the limits of a PIN"))?;
    check_pin("new", new, info.min_pin_length(), info.max_pin_length())?;
    let session = token.open_rw_session()?;
    session.set_pin(&old, new).map_err(Error::during("changing the PIN"))
}

/// The public half of a key.
///
/// # Errors
/// As [`token::find_key`].
pub fn public(token: &Token, uri: &KeyUri) -> Result<PublicKey> {
    let session = token.open_session()?;
    Ok(token::find_key(&session, token.label(), uri)?.public_key)
}

fn blank_slot(module: &Arc<Module>, label: &str, pins: &[(&str, &AuthPin)]) -> Result<Slot> {
    let context = module.context();
    let slots = context.get_slots_with_token().map_err(Error::during("listing slots"))?;
    let mut blank = None;
    for slot in slots {
        match context.get_token_info(slot) {
            Ok(info) if info.token_initialized() && info.label() == label => {
                return Err(Error::Exists(format!(
                    "token {label} exists in {}; choose another label",
                    module.path().display()
                )));
            }
            Ok(info) if !info.token_initialized() => {
                blank.get_or_insert((slot, info.min_pin_length(), info.max_pin_length()));
            }
            _ => {}
        }
    }
    let (slot, shortest, longest) = blank
        .ok_or_else(|| Error::Token(format!("{} has no blank token", module.path().display())))?;
    for (whose, pin) in pins {
        check_pin(whose, pin, shortest, longest)?;
    }
    Ok(slot)
}

fn check_pin(whose: &str, pin: &AuthPin, shortest: usize, longest: usize) -> Result<()> {
    let length = pin.expose_secret().len();
    // Kryoptic has no upper bound and says 0.
    if length < shortest.max(1) || (longest != 0 && length > longest) {
        let most = if longest == 0 { "more".to_owned() } else { longest.to_string() };
        return Err(Error::Config(format!(
            "the {whose} PIN must have {} to {most} characters on this token",
            shortest.max(1)
        )));
    }
    Ok(())
}

pub(crate) fn check_kid(kid: &str) -> Result<()> {
    if kid.is_empty() || kid.len() > MAX_LABEL_LEN || kid.chars().any(char::is_control) {
        return Err(Error::Config(format!("a kid has 1 to {MAX_LABEL_LEN} printable bytes")));
    }
    Ok(())
}

pub(crate) fn refuse_taken(
    session: &Session,
    token: &Token,
    by: &Attribute,
    kid: &str,
) -> Result<()> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let filter = [Attribute::Class(class), Attribute::Token(true), by.clone()];
        let found = session.find_objects(&filter).map_err(Error::during("searching for a key"))?;
        if let Some(&found) = found.first() {
            let (label, id) = token::names(session, found)?;
            return Err(Error::Exists(format!(
                "token {} already has key {label} (id {}), so {kid} cannot be made; see `kasbah \
                 hsm list`",
                token.label(),
                hex::encode(id)
            )));
        }
    }
    Ok(())
}

fn rsa_pair(
    bits: CK_ULONG,
    kid: &str,
    id: &[u8],
) -> (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>) {
    let mut public = template::rsa_public(kid, id);
    public.extend(template::rsa_numbers(bits));
    (Mechanism::RsaPkcsKeyPairGen, public, template::hardened_rsa_private(kid, id))
}

fn ec_pair(
    curve: Curve,
    kid: &str,
    id: &[u8],
) -> (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>) {
    let public = template::ec_public(curve, kid, id);
    (Mechanism::EccKeyPairGen, public, template::hardened_ec_private(kid, id))
}

fn rsa_public_object(key: &RsaPublicKey, kid: &str, id: &[u8]) -> Vec<Attribute> {
    let mut public = template::rsa_public(kid, id);
    public.push(Attribute::Modulus(key.modulus().to_vec()));
    public.push(Attribute::PublicExponent(key.exponent().to_vec()));
    public
}

fn ec_public_object(key: &EcPublicKey, kid: &str, id: &[u8]) -> Vec<Attribute> {
    let mut public = template::ec_public(key.curve(), kid, id);
    public.push(Attribute::EcPoint(template::ec_point(key)));
    public
}

/// The template of a private key on its way into a token; the secret numbers are wiped on drop.
struct SecretTemplate(Vec<Attribute>);

impl SecretTemplate {
    fn new(key: &PrivateKeyParts, kid: &str, id: &[u8]) -> Self {
        let mut template;
        match key {
            PrivateKeyParts::Ec { scalar, public } => {
                template = template::hardened_ec_private(kid, id);
                template.push(Attribute::EcParams(template::curve_oid(public.curve()).to_vec()));
                template.push(Attribute::Value(scalar.to_vec()));
            }
            PrivateKeyParts::Rsa(numbers) => {
                template = template::hardened_rsa_private(kid, id);
                template.extend(rsa_numbers(numbers));
            }
        }
        Self(template)
    }
}

fn rsa_numbers(numbers: &RsaParts) -> [Attribute; 8] {
    [
        Attribute::Modulus(numbers.public.modulus().to_vec()),
        Attribute::PublicExponent(numbers.public.exponent().to_vec()),
        Attribute::PrivateExponent(numbers.private_exponent.to_vec()),
        Attribute::Prime1(numbers.prime1.to_vec()),
        Attribute::Prime2(numbers.prime2.to_vec()),
        Attribute::Exponent1(numbers.exponent1.to_vec()),
        Attribute::Exponent2(numbers.exponent2.to_vec()),
        Attribute::Coefficient(numbers.coefficient.to_vec()),
    ]
}

impl Drop for SecretTemplate {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            match attribute {
                Attribute::Coefficient(secret)
                | Attribute::Exponent1(secret)
                | Attribute::Exponent2(secret)
                | Attribute::Prime1(secret)
                | Attribute::Prime2(secret)
                | Attribute::PrivateExponent(secret)
                | Attribute::Value(secret) => secret.zeroize(),
                _ => {}
            }
        }
    }
}

/// The entry of a key made here, which must be complete.
fn entry(session: &Session, private: ObjectHandle) -> Result<KeyEntry> {
    let FoundKey { label, id, public_key, .. } = token::describe(session, private)?;
    let gaps = template::hardened_gaps(session, private)
        .map_err(Error::during("reading a key's attributes"))?;
    let algorithm = public_key.algorithm();
    Ok(KeyEntry { label, id, algorithm, gaps, public_key: Some(public_key) })
}

/// The entry of a key that anybody may have made.
fn entry_of_any(session: &Session, private: ObjectHandle) -> Result<KeyEntry> {
    match entry(session, private) {
        Err(Error::Key(_)) => {
            let (label, id) = token::names(session, private)?;
            let gaps = template::hardened_gaps(session, private)
                .map_err(Error::during("reading a key's attributes"))?;
            Ok(KeyEntry { label, id, algorithm: None, gaps, public_key: None })
        }
        other => other,
    }
}

/// The entry of a public key that may turn out to be alone.
fn orphan(session: &Session, public: ObjectHandle) -> Result<StoredPair> {
    let (label, id) = token::names(session, public)?;
    let public_key = token::public_key(session, public)?;
    let algorithm = public_key.as_ref().and_then(PublicKey::algorithm);
    let entry = KeyEntry { label, id, algorithm, gaps: Vec::new(), public_key };
    Ok(StoredPair { entry, has_private_key: false, has_public_key: true })
}

fn are_halves(private: &KeyEntry, public: &KeyEntry) -> bool {
    if private.id.is_empty() { private.label == public.label } else { private.id == public.id }
}

/// Removes what a failed step left behind; the failure itself is what gets reported.
fn discard(session: &Session, objects: &[ObjectHandle]) {
    for &object in objects {
        let _ = session.destroy_object(object);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use static_assertions::assert_not_impl_any;

    use super::SecretTemplate;

    assert_not_impl_any!(SecretTemplate: Clone, Debug, Display, PartialEq);
}
