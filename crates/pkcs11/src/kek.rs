//! The keys in a token that private keys stored outside of it depend on.
//!
//! There are three, made when the first such key is: a wrapping key (AES-256, RFC 5649) for RSA
//! keys and one for EC keys, because each opens its kind of key with fixed flags only, and an HMAC
//! key that vouches for the records. None leaves the token or can be copied, changed or used for
//! anything else. Whoever loses them loses every key they wrap: back up the token.
//!
//! A wrapping key is no better than its `CKA_UNWRAP_TEMPLATE`; without one, it opens a private key
//! as a readable object. So it is tried, not trusted: see [`WrappingKey::examine`].

use cryptoki::{
    context::Pkcs11,
    error::Error as Cryptoki,
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    slot::Slot,
};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    ffi,
    object::{Ledger, Object},
    record::MAC_LEN,
    selftest,
    template::{self, Family},
};

/// Label of the HMAC key.
pub(crate) const MAC_LABEL: &str = "kasbah-kek-mac";

/// What clients are told of a wrapping key that fails its examination.
pub(crate) const WEAK: &str = "the token's wrapping key lets private keys out of the token";

/// Label of the wrapping key that new keys get.
pub(crate) fn label(family: Family) -> &'static str {
    match family {
        Family::Rsa => "kasbah-kek-rsa",
        Family::Ec => "kasbah-kek-ec",
    }
}

/// RFC 5649, under the number that a module has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kwp {
    /// `CKM_AES_KEY_WRAP_KWP`.
    Kwp,
    /// `CKM_AES_KEY_WRAP_PAD`, as older modules number it.
    Pad,
}

impl Kwp {
    /// What the token has; `None` when it has neither.
    pub(crate) fn of(context: &Pkcs11, slot: Slot) -> Option<Self> {
        [Self::Kwp, Self::Pad].into_iter().find(|kwp| {
            let info = context.get_mechanism_info(slot, kwp.mechanism_type());
            info.is_ok_and(|info| info.wrap() && info.unwrap())
        })
    }

    fn mechanism(self) -> Mechanism<'static> {
        match self {
            Self::Kwp => ffi::kwp(),
            Self::Pad => Mechanism::AesKeyWrapPad,
        }
    }

    fn mechanism_type(self) -> MechanismType {
        match self {
            Self::Kwp => ffi::kwp_type(),
            Self::Pad => MechanismType::AES_KEY_WRAP_PAD,
        }
    }
}

/// A key that wraps private keys of one kind and opens them again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrappingKey {
    pub(crate) handle: ObjectHandle,
    pub(crate) family: Family,
    pub(crate) kwp: Kwp,
}

impl WrappingKey {
    /// Makes one.
    pub(crate) fn generate(session: &Session, family: Family, kwp: Kwp) -> Result<Self> {
        let template = template::wrapping_key(family, label(family), kwp.mechanism_type());
        let handle = session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .map_err(Error::during("making the wrapping key"))?;
        Ok(Self { handle, family, kwp })
    }

    pub(crate) fn wrap(self, ledger: &Ledger<'_>, private: &Object<'_>) -> Result<Vec<u8>> {
        ledger
            .session
            .wrap_key(&self.kwp.mechanism(), self.handle, private.handle())
            .map_err(Error::during("wrapping a private key"))
    }

    /// Opens a private key into the token.
    pub(crate) fn open<'l>(
        self,
        ledger: &'l Ledger<'_>,
        blob: &[u8],
    ) -> Result<Object<'l>, Cryptoki> {
        self.unwrap(ledger, blob, &template::opened_private(self.family))
    }

    fn unwrap<'l>(
        self,
        ledger: &'l Ledger<'_>,
        blob: &[u8],
        template: &[Attribute],
    ) -> Result<Object<'l>, Cryptoki> {
        ledger
            .session
            .unwrap_key(&self.kwp.mechanism(), self.handle, blob, template)
            .map(|handle| ledger.own(handle))
    }

    /// Tries what it must refuse, with a private key that it opens.
    ///
    /// # Errors
    /// [`Error::Config`] when it does not refuse.
    pub(crate) fn examine(self, ledger: &Ledger<'_>, blob: &[u8]) -> Result<()> {
        for (way, forbidden) in template::forbidden_openings(self.family) {
            match self.unwrap(ledger, blob, &forbidden) {
                Err(error) if selftest::is_refusal(&error) => {}
                Err(error) if selftest::is_passing(&error) => {
                    return Err(Error::Call("examining a wrapping key", error));
                }
                Ok(_) | Err(_) => {
                    return Err(Error::Config(format!(
                        "a wrapping key of the token does not keep private keys: it opens them \
                         {way}; it was not made by this program, or the token does not heed \
                         CKA_UNWRAP_TEMPLATE. Give it another label than {}",
                        label(self.family)
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Makes the HMAC key.
pub(crate) fn generate_mac(session: &Session) -> Result<ObjectHandle> {
    session
        .generate_key(&Mechanism::GenericSecretKeyGen, &template::mac_key(MAC_LABEL))
        .map_err(Error::during("making the key that vouches for stored keys"))
}

/// HMAC-SHA256 in the token.
pub(crate) fn mac(
    session: &Session,
    key: ObjectHandle,
    bytes: &[u8],
) -> Result<Zeroizing<[u8; MAC_LEN]>> {
    let mac = session.sign(&Mechanism::Sha256Hmac, key, bytes);
    let mac = Zeroizing::new(mac.map_err(Error::during("vouching for a stored key"))?);
    let mac: &[u8; MAC_LEN] = mac
        .as_slice()
        .try_into()
        .map_err(|_| Error::Key(format!("the token made an HMAC-SHA256 of {} bytes", mac.len())))?;
    Ok(Zeroizing::new(*mac))
}

/// Whether it is a name without a key, as a crash during its making leaves it in SoftHSM: nothing
/// says that it was made, and it cannot be used. It has wrapped nothing, so it is not in the way of
/// a key that does. A wrapping key that may only open was brought by somebody, and is whole.
fn is_empty(session: &Session, key: ObjectHandle, kind: KeyType) -> bool {
    let kinds = [AttributeType::Local, AttributeType::CheckValue, AttributeType::Wrap];
    let marks = session.get_attributes(key, &kinds).unwrap_or_default();
    let is_whole = marks.iter().any(|mark| match mark {
        Attribute::Local(is_local) => *is_local,
        Attribute::CheckValue(value) => !value.is_empty(),
        Attribute::Wrap(may_wrap) => kind == KeyType::AES && !may_wrap,
        _ => false,
    });
    !is_whole && try_out(session, key, kind).is_err_and(|error| !selftest::is_passing(&error))
}

/// What a key of this kind is for, done once.
fn try_out(session: &Session, key: ObjectHandle, kind: KeyType) -> Result<(), Cryptoki> {
    if kind == KeyType::GENERIC_SECRET {
        return session.sign(&Mechanism::Sha256Hmac, key, b"kasbah").map(drop);
    }
    let throw_away = session.generate_key(
        &Mechanism::GenericSecretKeyGen,
        &[Attribute::Token(false), Attribute::Extractable(true), Attribute::ValueLen(16.into())],
    )?;
    let ways = [ffi::kwp(), Mechanism::AesKeyWrapPad];
    let tried = ways.iter().map(|way| session.wrap_key(way, key, throw_away).map(drop));
    let outcome = tried.reduce(Result::or).unwrap_or(Ok(()));
    session.destroy_object(throw_away)?;
    outcome
}

/// The secret key of this label; `None` when there is none.
///
/// # Errors
/// [`Error::Key`] when there are several.
pub(crate) fn find(
    session: &Session,
    token: &str,
    kind: KeyType,
    label: &str,
) -> Result<Option<ObjectHandle>> {
    let filter = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::KeyType(kind),
        Attribute::Label(label.into()),
    ];
    let mut found =
        session.find_objects(&filter).map_err(Error::during("searching for a wrapping key"))?;
    found.retain(|&key| !is_empty(session, key, kind));
    match found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => Err(Error::Key(format!(
            "token {token} has {} secret keys labelled {label}, so it is not clear which one \
             private keys are wrapped by; delete the one that is of no use, with a tool of the \
             token's maker",
            found.len()
        ))),
    }
}
