//! Private keys that are stored outside the token, wrapped, and opened only into it.
//!
//! Such a key is made in the token as a session object, wrapped by a key that stays there (see
//! [`crate::kek`]), and destroyed; what is stored is a [`Record`]. To be used it is opened into the
//! token again, as a session object with the hardened template. So it is never in host memory in
//! clear, and at rest only under a key of the token.
//!
//! That is one grade below a key that lives in the token. It was extractable for the moment
//! between generation and wrapping; and who holds the PIN and the record can open it a second time
//! without the `CKA_UNWRAP_TEMPLATE` that keeps *data* keys sealed, since no wrapping key can
//! demand that one. Custody is therefore reported as sealed by use: `enforced_by_key` is false,
//! under `require-sealed` too, where an operator who wants more sees it.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectHandle},
    session::Session,
};
use kasbah_crypto::{Algorithm, Dek, PublicKey, rsa::RsaPublicKey};
use kasbah_trust::{NewKey, PrivateKeyRef};
use subtle::ConstantTimeEq;

use crate::{
    error::{Error, Result},
    kek::{self, Kwp, MAC_LABEL, WrappingKey},
    object::{Ledger, Object},
    provision,
    record::{self, Malformed, Record},
    rewrap::{self, Exposure, Fault},
    template::{self, Family},
    token::{self, Token},
};

/// What a stored key is opened with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tools {
    pub(crate) kek: WrappingKey,
    pub(crate) mac: ObjectHandle,
}

impl Tools {
    /// Those that the token has under these names.
    ///
    /// # Errors
    /// [`Error::Key`] when one is missing.
    pub(crate) fn find(
        session: &Session,
        token: &str,
        family: Family,
        label: &str,
        kwp: Kwp,
    ) -> Result<Self> {
        let find = |kind, label: &str| {
            kek::find(session, token, kind, label)?.ok_or_else(|| {
                Error::Key(format!(
                    "token {token} has no secret key labelled {label}, without which wrapped \
                     private keys do not open; is it the token they were made with? Restore its \
                     backup"
                ))
            })
        };
        let handle = find(KeyType::AES, label)?;
        let mac = find(KeyType::GENERIC_SECRET, MAC_LABEL)?;
        Ok(Self { kek: WrappingKey { handle, family, kwp }, mac })
    }
}

/// Makes a key pair whose private half is handed out wrapped. The token keeps nothing of it, its
/// name included: asked again for the same, it makes another key.
///
/// # Errors
/// [`Error::Exists`] when the token has a key named `kid`; [`Error::Config`] when its wrapping key
/// is no good; [`Error::Call`] when the token refuses.
pub(crate) fn generate(token: &Token, kwp: Kwp, kid: &str, algorithm: Algorithm) -> Result<NewKey> {
    let session = token.open_rw_session()?;
    provision::refuse_taken(&session, token, &Attribute::Label(kid.into()), kid)?;
    let family = Family::of(algorithm);
    let (tools, is_new) = tools(&session, token.label(), family, kwp)?;
    let ledger = Ledger::new(&session);
    let made = make(&ledger, tools, kid, algorithm);
    if is_new && matches!(made, Err(Error::Config(_))) {
        session
            .destroy_object(tools.kek.handle)
            .map_err(Error::during("destroying a wrapping key that is no good"))?;
    }
    made
}

/// The wrapping key and the HMAC key of the token, made if they are missing; whether the wrapping
/// key was.
fn tools(session: &Session, token: &str, family: Family, kwp: Kwp) -> Result<(Tools, bool)> {
    let find_mac = || kek::find(session, token, KeyType::GENERIC_SECRET, MAC_LABEL);
    let mac = match find_mac()? {
        Some(mac) => mac,
        None => alone(session, kek::generate_mac(session)?, find_mac)?,
    };
    let find_kek = || kek::find(session, token, KeyType::AES, kek::label(family));
    if let Some(handle) = find_kek()? {
        return Ok((Tools { kek: WrappingKey { handle, family, kwp }, mac }, false));
    }
    let kek = WrappingKey::generate(session, family, kwp)?;
    alone(session, kek.handle, find_kek)?;
    Ok((Tools { kek, mac }, true))
}

/// Takes a new key back when another process made one of the same name at the same time.
fn alone(
    session: &Session,
    made: ObjectHandle,
    find: impl Fn() -> Result<Option<ObjectHandle>>,
) -> Result<ObjectHandle> {
    find().inspect_err(|_| drop(session.destroy_object(made)))?;
    Ok(made)
}

fn make(ledger: &Ledger<'_>, tools: Tools, kid: &str, algorithm: Algorithm) -> Result<NewKey> {
    let family = tools.kek.family;
    let (public_key, blob) = {
        let mechanism = match family {
            Family::Rsa => Mechanism::RsaPkcsKeyPairGen,
            Family::Ec => Mechanism::EccKeyPairGen,
        };
        let public = template::session_public(algorithm);
        let private = template::unwrapped_private(family);
        let (public, private) = ledger
            .session
            .generate_key_pair(&mechanism, &public, &private)
            .map_err(Error::during("generating a key pair to be wrapped"))?;
        let (public, private) = (ledger.own(public), ledger.own(private));
        let public_key = token::public_key(ledger.session, public.handle())?
            .filter(|key| key.algorithm() == Some(algorithm))
            .ok_or_else(|| Error::Key(format!("key {kid}: the token made no {algorithm} key")))?;
        (public_key, tools.kek.wrap(ledger, &private)?)
    };
    tools.kek.examine(ledger, &blob)?;
    let label = kek::label(family);
    let fingerprint = public_key.fingerprint();
    let unsigned = Record::unsigned(algorithm, kid, label, &fingerprint, &blob)
        .map_err(|malformed| damaged(kid, malformed))?;
    let mac = kek::mac(ledger.session, tools.mac, &unsigned)?;
    let stored = record::to_base64(&unsigned, &mac);
    let record = Record::from_base64(&stored).map_err(|malformed| damaged(kid, malformed))?;
    // Only what opens again is worth storing.
    drop(open(ledger, tools, &record, kid, &public_key)?);
    Ok(NewKey {
        public_key,
        private_key: PrivateKeyRef { key_id: Some(label.into()), wrapped_key: Some(stored) },
    })
}

/// Opens a stored key into the token and proves that it is the one of `public_key`.
///
/// # Errors
/// [`Error::Key`] when the record is damaged, or its key is another one; [`Error::Call`] when the
/// token fails.
pub(crate) fn open<'l>(
    ledger: &'l Ledger<'_>,
    tools: Tools,
    record: &Record,
    kid: &str,
    public_key: &PublicKey,
) -> Result<Object<'l>> {
    let mac = kek::mac(ledger.session, tools.mac, record.signed())?;
    if !bool::from(mac.as_slice().ct_eq(record.mac())) {
        return Err(damaged(kid, Malformed("it is not what this token vouched for")));
    }
    let private = tools
        .kek
        .open(ledger, record.blob())
        .map_err(Error::during("opening a wrapped private key"))?;
    let gaps = template::opened_gaps(ledger.session, private.handle())
        .map_err(Error::during("reading the flags of an opened key"))?;
    if let Some(gap) = gaps.first() {
        return Err(Error::Key(format!(
            "key {kid} was opened into the token without CKA_{gap}; the token does not heed the \
             template of C_UnwrapKey"
        )));
    }
    let fits = match public_key {
        PublicKey::Rsa(public) => has_modulus(ledger, &private, public)?,
        PublicKey::Ec(_) => agrees(ledger, &private, public_key)?,
    };
    if fits { Ok(private) } else { Err(damaged(kid, Malformed("it holds another private key"))) }
}

/// Says which key's record is of no use; for operators.
pub(crate) fn damaged(kid: &str, Malformed(why): Malformed) -> Error {
    Error::Key(format!(
        "the stored private key of {kid} is damaged: {why}; restore wrapped_key from a backup"
    ))
}

fn has_modulus(ledger: &Ledger<'_>, private: &Object<'_>, public: &RsaPublicKey) -> Result<bool> {
    let read = ledger
        .session
        .get_attributes(private.handle(), &[AttributeType::Modulus])
        .map_err(Error::during("reading the modulus of an opened key"))?;
    Ok(match &read[..] {
        [Attribute::Modulus(modulus)] => {
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            &modulus[zeros..] == public.modulus()
        }
        _ => false,
    })
}

/// An EC private key shows nothing of its public one, but only the right one opens this.
fn agrees(ledger: &Ledger<'_>, private: &Object<'_>, public: &PublicKey) -> Result<bool> {
    let wrapped = Dek::generate()
        .and_then(|dek| public.wrap(&dek))
        .map_err(|_| Error::Key("no canary could be made for an opened key".into()))?;
    match rewrap::expose(ledger, private.handle(), &wrapped, Exposure::Agree) {
        Ok(_) => Ok(true),
        Err(Fault::Call(error, _)) => Err(Error::Call("trying an opened key", error)),
        Err(Fault::Answer(_) | Fault::ShortKey) => Ok(false),
    }
}
