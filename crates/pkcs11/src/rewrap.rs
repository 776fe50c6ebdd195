//! What a worker does with data keys inside the token.
//!
//! *Sealed*, a data key is a token object from `C_UnwrapKey` to `C_WrapKey`, and what the token says
//! of `CKA_SENSITIVE` afterwards counts, not what the template asked for. *Exposed*, it comes to the
//! host for the length of the call. Whatever a call returns in clear goes into wiped memory at once;
//! the `cryptoki` crate leaves one copy of an attribute value it read (an ECDH secret) in freed
//! memory, which cannot be helped from outside.

use aws_lc_rs::rand;
use cryptoki::{
    error::{Error as Cryptoki, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use kasbah_crypto::{
    Dek, PolicyBinding, WrappedDek,
    ec::{EcPublicKey, NONCE_LEN, TAG_LEN, WrapKey},
    keywrap,
    rsa::RsaPublicKey,
};
use kasbah_trust::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    mechanism,
    object::{Ledger, Object},
    template::{self, DekTemplate, HkdfUse, Secrecy},
};

/// Why an operation on the token ended early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Decided; the token has nothing to add.
    Answer(Error),
    /// A call failed.
    Call(Cryptoki, Stage),
    /// The token makes no HMAC with a data key this short.
    ShortKey,
}

/// Whose fault a failed call can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The wrapped data key's: everything until it is unwrapped.
    Unwrap,
    /// Not the wrapped data key's.
    After,
}

/// What a data key leaves by when it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// The ECDH secret is derived readable; the rest happens on the host.
    Agree,
    /// `C_Decrypt`, on keys that allow it.
    Decrypt,
    /// Unwrapped into an object, which is wrapped under a throw-away key that the host knows.
    Export(DekTemplate),
    /// Unwrapped into an object that the token leaves readable.
    Read,
}

/// The token left an object readable that was to be sealed.
pub(crate) const READABLE: &str = "sealed custody required, but the token leaves unwrapped data \
                                   keys readable (CKA_SENSITIVE reads false)";

impl Fault {
    pub(crate) fn unwrapping(error: Cryptoki) -> Self {
        Self::Call(error, Stage::Unwrap)
    }
}

impl From<Cryptoki> for Fault {
    fn from(error: Cryptoki) -> Self {
        Self::Call(error, Stage::After)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Answer(error)
    }
}

/// Unwraps a data key into a sealed object and proves that it is one.
pub(crate) fn unwrap_sealed<'l>(
    ledger: &'l Ledger<'_>,
    private: ObjectHandle,
    wrapped: &WrappedDek,
    template: DekTemplate,
) -> Result<Object<'l>, Fault> {
    let dek = match wrapped {
        WrappedDek::Rsa(ciphertext) => {
            unwrap_oaep(ledger, private, ciphertext, &template.attributes())?
        }
        WrappedDek::Ec { blob, ephemeral } => {
            let key = agree_sealed(ledger, private, ephemeral, HkdfUse::Unwrap)?;
            unwrap_gcm(ledger, &key, blob, &template.attributes())?
        }
    };
    match check_sealed(ledger, &dek)? {
        // SoftHSM reports no length; there the binding alone vouches for the data key.
        None | Some(0 | 16 | 24 | 32) => Ok(dek),
        Some(_) => Err(Error::Decrypt.into()),
    }
}

pub(crate) fn unwrap_oaep<'l>(
    ledger: &'l Ledger<'_>,
    private: ObjectHandle,
    ciphertext: &[u8],
    template: &[Attribute],
) -> Result<Object<'l>, Fault> {
    ledger
        .session
        .unwrap_key(&mechanism::oaep(), private, ciphertext, template)
        .map(|handle| ledger.own(handle))
        .map_err(Fault::unwrapping)
}

fn unwrap_gcm<'l>(
    ledger: &'l Ledger<'_>,
    key: &Object<'_>,
    blob: &[u8],
    template: &[Attribute],
) -> Result<Object<'l>, Fault> {
    let Some((nonce, sealed)) = blob.split_at_checked(NONCE_LEN) else {
        return Err(Error::Decrypt.into());
    };
    let mut nonce = nonce.to_vec();
    ledger
        .session
        .unwrap_key(&mechanism::gcm(&mut nonce)?, key.handle(), sealed, template)
        .map(|handle| ledger.own(handle))
        .map_err(Fault::unwrapping)
}

/// ECDH and HKDF, neither result ever readable.
pub(crate) fn agree_sealed<'l>(
    ledger: &'l Ledger<'_>,
    private: ObjectHandle,
    peer: &EcPublicKey,
    purpose: HkdfUse,
) -> Result<Object<'l>, Fault> {
    let secret = template::ecdh_secret(Secrecy::Sensitive);
    let secret = ledger
        .session
        .derive_key(&mechanism::ecdh(peer), private, &secret)
        .map(|handle| ledger.own(handle))
        .map_err(Fault::unwrapping)?;
    check_sealed(ledger, &secret)?;
    let key = ledger
        .session
        .derive_key(&mechanism::hkdf(), secret.handle(), &template::hkdf_key(purpose))
        .map(|handle| ledger.own(handle))
        .map_err(Fault::unwrapping)?;
    check_sealed(ledger, &key)?;
    Ok(key)
}

/// Reads back that an object is sealed: `CKA_SENSITIVE` must read true. One call; the length comes
/// along where the token tells it. The value is not asked for: a token that lies would hand it over.
pub(crate) fn check_sealed(ledger: &Ledger<'_>, object: &Object<'_>) -> Result<Option<u64>, Fault> {
    let kinds = [AttributeType::Sensitive, AttributeType::ValueLen];
    let (mut sensitive, mut length) = (false, None);
    for attribute in ledger.session.get_attributes(object.handle(), &kinds)? {
        match attribute {
            Attribute::Sensitive(value) => sensitive = value,
            Attribute::ValueLen(value) => length = Some(*value),
            _ => {}
        }
    }
    if sensitive { Ok(length) } else { Err(Error::NotPermitted(READABLE).into()) }
}

/// Asks for the value of an object that says it is sensitive; for the self-test, whose data key is
/// nobody's.
pub(crate) fn check_unreadable(ledger: &Ledger<'_>, object: &Object<'_>) -> Result<(), Fault> {
    let read = ledger.session.get_attributes(object.handle(), &[AttributeType::Value])?;
    let readable = read.into_iter().any(|attribute| match attribute {
        Attribute::Value(mut value) => {
            value.zeroize();
            true
        }
        _ => false,
    });
    if readable { Err(Error::NotPermitted(READABLE).into()) } else { Ok(()) }
}

/// Whether an object is sealed, without asking for its value: for modules that may give it.
pub(crate) fn is_sensitive(ledger: &Ledger<'_>, object: &Object<'_>) -> Result<bool, Fault> {
    let read = ledger.session.get_attributes(object.handle(), &[AttributeType::Sensitive])?;
    Ok(matches!(read[..], [Attribute::Sensitive(true)]))
}

/// Checks a policy binding with the data key in the token. The MAC is key material (for a policy
/// of the caller's choice it is the binding he lacks): compared here, in constant time, and wiped.
pub(crate) fn verify_binding(
    ledger: &Ledger<'_>,
    dek: &Object<'_>,
    policy: &str,
    binding: &PolicyBinding,
) -> Result<(), Fault> {
    let mac = match ledger.session.sign(&Mechanism::Sha256Hmac, dek.handle(), policy.as_bytes()) {
        Ok(mac) => Zeroizing::new(mac),
        Err(Cryptoki::Pkcs11(RvError::KeySizeRange, _)) => return Err(Fault::ShortKey),
        Err(error) => return Err(error.into()),
    };
    binding.verify(&mac).map_err(|_| Error::Decrypt.into())
}

/// RSA-OAEP under a client's key, imported for this one call.
pub(crate) fn wrap_oaep(
    ledger: &Ledger<'_>,
    dek: &Object<'_>,
    client: &RsaPublicKey,
) -> Result<Vec<u8>, Fault> {
    let key = ledger.own(ledger.session.create_object(&template::client_rsa(client))?);
    let wrapped = ledger.session.wrap_key(&mechanism::oaep(), key.handle(), dek.handle())?;
    if wrapped.len() == client.modulus().len() {
        Ok(wrapped)
    } else {
        Err(odd_length("C_WrapKey with RSA-OAEP", wrapped.len()))
    }
}

/// AES-GCM under the key of a response, with a nonce of its own: `nonce || ciphertext || tag`.
pub(crate) fn wrap_gcm(
    ledger: &Ledger<'_>,
    dek: &Object<'_>,
    key: ObjectHandle,
) -> Result<Vec<u8>, Fault> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    // A copy: some devices write a nonce of their own into the parameter block.
    let mut given = nonce;
    let sealed = ledger.session.wrap_key(&mechanism::gcm(&mut given)?, key, dek.handle())?;
    match sealed.len().checked_sub(TAG_LEN) {
        Some(16 | 24 | 32) => Ok([&given[..], &sealed].concat()),
        _ => Err(odd_length("C_WrapKey with AES-GCM", sealed.len())),
    }
}

fn odd_length(call: &str, length: usize) -> Fault {
    Error::internal(format!("{call} returned {length} bytes")).into()
}

/// Unwraps a data key to the host.
pub(crate) fn expose(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    wrapped: &WrappedDek,
    exposure: Exposure,
) -> Result<Dek, Fault> {
    match (wrapped, exposure) {
        (WrappedDek::Rsa(ciphertext), Exposure::Decrypt) => {
            let bytes = ledger.session.decrypt(&mechanism::oaep(), private, ciphertext);
            data_key(&Zeroizing::new(bytes.map_err(Fault::unwrapping)?))
        }
        (WrappedDek::Rsa(ciphertext), Exposure::Export(template)) => {
            export(ledger, &unwrap_oaep(ledger, private, ciphertext, &template.attributes())?)
        }
        (WrappedDek::Rsa(ciphertext), Exposure::Read) => {
            data_key(&value(ledger, &unwrap_oaep(ledger, private, ciphertext, &readable_dek())?)?)
        }
        (WrappedDek::Ec { blob, ephemeral }, Exposure::Agree) => {
            agree_exposed(ledger, private, ephemeral)?.open(blob).map_err(|_| Error::Decrypt.into())
        }
        _ => Err(Error::Decrypt.into()),
    }
}

/// What modules take that refuse every other template. They are asked nothing about sensitivity,
/// so that what they do by themselves shows.
pub(crate) fn readable_dek() -> [Attribute; 6] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sign(true),
        Attribute::Verify(true),
    ]
}

/// ECDH and HKDF with the secret on the host.
pub(crate) fn agree_exposed(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    peer: &EcPublicKey,
) -> Result<WrapKey, Fault> {
    let secret = ledger
        .session
        .derive_key(&mechanism::ecdh(peer), private, &template::ecdh_secret(Secrecy::Readable))
        .map(|handle| ledger.own(handle))
        .map_err(Fault::unwrapping)?;
    let secret = value(ledger, &secret)?;
    if secret.len() != peer.curve().field_len() {
        return Err(odd_length("ECDH", secret.len()));
    }
    WrapKey::derive(&secret).map_err(|error| Error::internal(error).into())
}

/// Brings a data key out of the token. A hardened key forbids decryption and readable unwraps, but
/// the data key must be extractable to be of use, so it leaves as it does for a client: wrapped.
fn export(ledger: &Ledger<'_>, dek: &Object<'_>) -> Result<Dek, Fault> {
    let mut key = Zeroizing::new([0; 32]);
    random(key.as_mut())?;
    let handle = import(ledger, KeyType::AES, key.as_ref(), Attribute::Wrap(true))?;
    let wrapped = ledger.session.wrap_key(&Mechanism::AesKeyWrap, handle.handle(), dek.handle());
    match wrapped {
        Ok(wrapped) => keywrap::unwrap(&key, &wrapped).map_err(|_| Error::Decrypt.into()),
        // AES-KW takes multiples of 8 bytes, as every data key is.
        Err(error) => Err(Fault::unwrapping(error)),
    }
}

/// Puts a data key that is on the host back into the token, to be wrapped there.
pub(crate) fn import_dek<'l>(ledger: &'l Ledger<'_>, dek: &Dek) -> Result<Object<'l>, Fault> {
    let extractable = Attribute::Extractable(true);
    import(ledger, KeyType::GENERIC_SECRET, dek.expose_secret(), extractable)
}

fn import<'l>(
    ledger: &'l Ledger<'_>,
    kind: KeyType,
    bytes: &[u8],
    flag: Attribute,
) -> Result<Object<'l>, Fault> {
    let mut template = [
        Attribute::Value(bytes.to_vec()),
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        flag,
    ];
    let created = ledger.session.create_object(&template);
    if let Attribute::Value(bytes) = &mut template[0] {
        bytes.zeroize();
    }
    Ok(ledger.own(created?))
}

fn value(ledger: &Ledger<'_>, object: &Object<'_>) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let read = ledger.session.get_attributes(object.handle(), &[AttributeType::Value])?;
    match read.into_iter().next() {
        Some(Attribute::Value(value)) => Ok(Zeroizing::new(value)),
        _ => Err(Error::NotPermitted("the token does not let this secret out").into()),
    }
}

fn data_key(bytes: &[u8]) -> Result<Dek, Fault> {
    Dek::from_slice(bytes).map_err(|_| Error::Decrypt.into())
}

fn random(bytes: &mut [u8]) -> Result<(), Fault> {
    rand::fill(bytes).map_err(|_| Error::internal("the system's random source failed").into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
    use kasbah_trust::SecretSource;

    use super::*;
    use crate::{
        module::Module,
        token::{PinSource, Token},
    };

    fn open(fixture: &TestToken) -> Arc<Token> {
        let module = Module::load("modules.test.path", fixture.module_path()).unwrap();
        let source = SecretSource::File(fixture.pin_file());
        let pin = PinSource { name: "pin1".into(), source };
        Token::open(&module, fixture.label(), None, pin).unwrap()
    }

    /// What a module that lies about its templates would leave behind.
    fn secret<'l>(ledger: &'l Ledger<'_>, sensitive: bool) -> Object<'l> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(true),
            Attribute::Value(vec![7; 32]),
        ];
        ledger.own(ledger.session.create_object(&template).unwrap())
    }

    fn only_sealed_objects_pass(fixture: &TestToken) {
        let token = open(fixture);
        let session = token.open_session().unwrap();
        let ledger = Ledger::new(&session);
        assert!(check_sealed(&ledger, &secret(&ledger, true)).is_ok());
        assert!(is_sensitive(&ledger, &secret(&ledger, true)).unwrap());
        let readable = check_sealed(&ledger, &secret(&ledger, false));
        let Err(Fault::Answer(Error::NotPermitted(text))) = readable else {
            panic!("{readable:?}")
        };
        assert_eq!(text, READABLE);
        assert!(!is_sensitive(&ledger, &secret(&ledger, false)).unwrap());
        assert!(check_unreadable(&ledger, &secret(&ledger, true)).is_ok());
        assert!(check_unreadable(&ledger, &secret(&ledger, false)).is_err());
        assert_eq!(ledger.live(), 0);
    }

    #[test]
    fn only_sealed_objects_pass_on_softhsm() {
        only_sealed_objects_pass(&SoftHsm::fresh());
    }

    #[test]
    fn only_sealed_objects_pass_on_kryoptic() {
        only_sealed_objects_pass(&Kryoptic::fresh());
    }
}
