//! Tokens, logins and keys on them.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
};

use cryptoki::{
    error::{Error as Cryptoki, RvError},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, SessionState, UserType},
    slot::Slot,
    types::AuthPin,
};
use kasbah_crypto::{PublicKey, rsa::RsaPublicKey};
use kasbah_trust::SecretSource;

use crate::{
    error::{Error, ErrorClass, Result},
    module::{Inside, Module, lock},
    template,
    uri::KeyUri,
};

/// Which PIN opens a token: the name of the local entry, and where that entry says it is.
#[derive(Debug, Clone)]
pub struct PinSource {
    /// Name of the entry; two configurations of one token must agree on it.
    pub name: String,
    /// Read once per login and wiped.
    pub source: SecretSource,
}

/// A token of a module, shared by everybody in this process who names it.
///
/// A login belongs to the process and the token. One guard session holds it for life; nobody ever
/// logs out. After one login a wrong PIN would go unnoticed, so all who share a token must name the
/// same PIN. A refused PIN is tried once and never again until the process restarts, because every
/// attempt brings the token nearer to locking.
pub struct Token {
    module: Arc<Module>,
    label: String,
    slot: Option<u64>,
    pin: PinSource,
    state: Mutex<State>,
    making: Mutex<()>,
}

/// What changes about a token while it is in use.
pub(crate) struct State {
    /// Where it was last seen.
    slot: Slot,
    /// Holds the login.
    guard: Option<TokenSession>,
    /// Why the token refused the PIN.
    refused: Option<String>,
}

/// A session on a token that is logged in. Dereferences to [`Session`]; closed on drop.
///
/// While one lives the module cannot be restarted. Never shared between threads.
#[derive(Debug)]
pub struct TokenSession {
    // Before `_inside`: the session must be closed when the module may be finalized.
    session: Session,
    _inside: Inside,
}

impl Token {
    /// The token labelled `label`, logged in. `slot` picks one where labels cannot be read or are
    /// not unique.
    ///
    /// # Errors
    /// [`Error::Token`] when it is not there, which a later attempt may find otherwise;
    /// [`Error::Config`] when the token is already in use under another PIN; [`Error::Pin`] when
    /// the PIN is unreadable or refused.
    pub fn open(
        module: &Arc<Module>,
        label: &str,
        slot: Option<u64>,
        pin: PinSource,
    ) -> Result<Arc<Self>> {
        let found = find_slot(module, label, slot)?;
        let token = Self::shared(module, label, slot, found, pin)?;
        token.login()?;
        Ok(token)
    }

    fn shared(
        module: &Arc<Module>,
        label: &str,
        slot: Option<u64>,
        found: Slot,
        pin: PinSource,
    ) -> Result<Arc<Self>> {
        let mut tokens = module.tokens();
        if let Some(index) = tokens.iter().position(|token| token.is(label, slot, found)) {
            let token = &tokens[index];
            if token.pin.name == pin.name {
                return Ok(Arc::clone(token));
            }
            if Arc::strong_count(token) > 1 || token.state().met_the_pin() {
                return Err(Error::Config(format!(
                    "token {label} is opened with PIN {} by one provider and {} by another; a login \
                     is shared by the whole process, so name the same PIN in both (after a change, \
                     restart)",
                    token.pin.name, pin.name
                )));
            }
            tokens.swap_remove(index);
        }
        let token = Arc::new(Self {
            module: Arc::clone(module),
            label: label.to_owned(),
            slot,
            pin,
            state: Mutex::new(State { slot: found, guard: None, refused: None }),
            making: Mutex::default(),
        });
        tokens.push(Arc::clone(&token));
        Ok(token)
    }

    /// Whether this token is the one found in that slot, or was configured in the same words.
    fn is(&self, label: &str, slot: Option<u64>, found: Slot) -> bool {
        self.state().slot == found || (self.label == label && self.slot == slot)
    }

    /// The module it is in.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Its label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where it is now.
    ///
    /// # Errors
    /// As [`Token::login`].
    pub fn slot(&self) -> Result<Slot> {
        self.logged_in(&mut self.state())
    }

    /// Logs in unless that was done; callers that come at the same time share one attempt.
    ///
    /// # Errors
    /// As [`Token::open`].
    pub fn login(&self) -> Result<()> {
        self.logged_in(&mut self.state()).map(drop)
    }

    /// Logs in again when the token forgot the login ([`ErrorClass::Login`]); nothing happens when
    /// somebody else already did.
    ///
    /// # Errors
    /// As [`Token::open`].
    pub fn restore_login(&self) -> Result<()> {
        let mut state = self.state();
        if !state.guard.as_ref().is_some_and(|guard| is_logged_in(guard)) {
            state.forget_login();
        }
        self.logged_in(&mut state).map(drop)
    }

    /// A read-only session, which is all a KAS needs.
    ///
    /// # Errors
    /// As [`Token::login`]; [`Error::Call`] when the module refuses a session.
    pub fn open_session(&self) -> Result<TokenSession> {
        let slot = self.slot()?;
        self.session(slot, false)
    }

    /// A session that may make and change token objects.
    ///
    /// # Errors
    /// As [`Token::open_session`].
    pub fn open_rw_session(&self) -> Result<TokenSession> {
        let slot = self.slot()?;
        self.session(slot, true)
    }

    /// Held while keys are made or destroyed, so that looking for a name and taking it is one step
    /// in this process.
    pub(crate) fn making(&self) -> MutexGuard<'_, ()> {
        lock(&self.making)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn read_pin(&self) -> Result<AuthPin> {
        self.pin.source.read().map_err(|error| {
            Error::Pin(format!("token {}: PIN {}: {error}", self.label, self.pin.name))
        })
    }

    fn session(&self, slot: Slot, writable: bool) -> Result<TokenSession> {
        TokenSession::open(&self.module, slot, writable)
    }

    fn logged_in(&self, state: &mut State) -> Result<Slot> {
        if state.guard.is_some() {
            return Ok(state.slot);
        }
        if let Some(message) = &state.refused {
            return Err(Error::Pin(message.clone()));
        }
        let slot = find_slot(&self.module, &self.label, self.slot)?;
        let pin = self.read_pin()?;
        let guard = self.session(slot, false)?;
        match guard.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                state.slot = slot;
                state.guard = Some(guard);
                Ok(slot)
            }
            Err(error) if ErrorClass::of(&error) == ErrorClass::Pin => {
                let message = format!(
                    "token {} refused PIN {} ({}): {error}; it is not tried again, so that the \
                     token does not lock: correct it and restart",
                    self.label, self.pin.name, self.pin.source
                );
                state.refused = Some(message.clone());
                Err(Error::Pin(message))
            }
            Err(error) => Err(Error::Call("logging in", error)),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("module", &self.module.path())
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(crate) fn has_guard(&self) -> bool {
        self.guard.is_some()
    }

    /// Whether the token has judged the PIN: later ones would go unnoticed, or be one attempt more.
    fn met_the_pin(&self) -> bool {
        self.guard.is_some() || self.refused.is_some()
    }

    /// Closes the guard session; the next use logs in. A refused PIN stays refused.
    pub(crate) fn forget_login(&mut self) {
        self.guard = None;
    }
}

impl TokenSession {
    pub(crate) fn open(module: &Arc<Module>, slot: Slot, writable: bool) -> Result<Self> {
        let inside = module.enter();
        let context = module.context();
        let session =
            if writable { context.open_rw_session(slot) } else { context.open_ro_session(slot) };
        let session = session.map_err(Error::during("opening a session"))?;
        Ok(Self { session, _inside: inside })
    }
}

impl Deref for TokenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// Whether private objects can be seen: without a login, a search finds none.
pub(crate) fn is_logged_in(session: &Session) -> bool {
    session.get_session_info().is_ok_and(|info| {
        matches!(info.session_state(), SessionState::RoUser | SessionState::RwUser)
    })
}

/// The slot of the token labelled `label`.
///
/// A token whose information cannot be read (openCryptoki announces a clock and leaves the time
/// blank) is passed over, unless `slot` names it.
pub(crate) fn find_slot(module: &Arc<Module>, label: &str, slot: Option<u64>) -> Result<Slot> {
    let _inside = module.enter();
    let context = module.context();
    let slots = context.get_slots_with_token().map_err(Error::during("listing slots"))?;
    let (mut matching, mut labels, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for found in slots.into_iter().filter(|found| slot.is_none_or(|slot| found.id() == slot)) {
        match context.get_token_info(found) {
            Ok(info) if info.label() == label => matching.push(found),
            Ok(info) if info.token_initialized() => labels.push(info.label().to_owned()),
            Ok(_) => {}
            Err(_) if slot.is_some() => matching.push(found),
            Err(_) => unreadable.push(found.id().to_string()),
        }
    }
    if let [only] = matching[..] {
        return Ok(only);
    }
    let problem = if matching.is_empty() { "there is none" } else { "there are several" };
    let advice = if matching.len() > 1 {
        let ids: Vec<_> = matching.iter().map(|slot| slot.id().to_string()).collect();
        format!("say which with `slot`: {}", ids.join(", "))
    } else if unreadable.is_empty() {
        "make one with `kasbah hsm init`".to_owned()
    } else {
        let ids = unreadable.join(", ");
        format!("slots that could not be read: {ids}; to use one, name it with `slot`")
    };
    Err(Error::Token(format!(
        "token {label}: {problem} in {}; tokens found: {}; {advice}",
        module.path().display(),
        if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }
    )))
}

/// A key pair on a token.
#[derive(Debug, Clone)]
pub struct FoundKey {
    /// Handle of the private key; good for this login, in every session of the process.
    pub private: ObjectHandle,
    /// `CKA_LABEL`, empty when there is none.
    pub label: String,
    /// `CKA_ID`, empty when there is none.
    pub id: Vec<u8>,
    /// The public half.
    pub public_key: PublicKey,
}

/// Finds the one key that `uri` names. `token` is the label of the token, for messages and for the
/// check of `token` in the URI.
///
/// # Errors
/// [`Error::Key`] when there is none or more than one; [`Error::Uri`] for another token's URI.
pub fn find_key(session: &Session, token: &str, uri: &KeyUri) -> Result<FoundKey> {
    uri.check_token(token)?;
    let handles = session
        .find_objects(&private_key_filter(uri))
        .map_err(Error::during("searching for a key"))?;
    match handles[..] {
        [private] => describe(session, private),
        [] => Err(Error::Key(format!(
            "token {token} has no private key {uri}; keys found: {}; see `kasbah hsm list`, make \
             one with `kasbah hsm generate`",
            labels(session)?
        ))),
        _ => Err(Error::Key(format!(
            "token {token} has {} private keys {uri}; name one by its id, see `kasbah hsm list`; \
             keys found: {}",
            handles.len(),
            labels(session)?
        ))),
    }
}

/// Handles of all private keys of the token.
pub(crate) fn private_keys(session: &Session) -> Result<Vec<ObjectHandle>> {
    objects(session, ObjectClass::PRIVATE_KEY)
}

/// Handles of all token objects of a class.
pub(crate) fn objects(session: &Session, class: ObjectClass) -> Result<Vec<ObjectHandle>> {
    let filter = [Attribute::Class(class), Attribute::Token(true)];
    session.find_objects(&filter).map_err(Error::during("listing keys"))
}

/// Label, id and public half of a private key.
pub(crate) fn describe(session: &Session, private: ObjectHandle) -> Result<FoundKey> {
    let (label, id) = names(session, private)?;
    let public_key = public_half(session, private, &label, &id)?;
    Ok(FoundKey { private, label, id, public_key })
}

/// Label and id of an object; empty where it has none.
pub(crate) fn names(session: &Session, object: ObjectHandle) -> Result<(String, Vec<u8>)> {
    let (mut label, mut id) = (String::new(), Vec::new());
    for attribute in attributes(session, object, &[AttributeType::Label, AttributeType::Id])? {
        match attribute {
            Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
            Attribute::Id(bytes) => id = bytes,
            _ => {}
        }
    }
    Ok((label, id))
}

fn private_key_filter(uri: &KeyUri) -> Vec<Attribute> {
    let mut filter = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    filter.extend(uri.object().map(|label| Attribute::Label(label.into())));
    filter.extend(uri.id().map(|id| Attribute::Id(id.into())));
    filter
}

fn labels(session: &Session) -> Result<String> {
    let mut labels = Vec::new();
    for handle in private_keys(session)? {
        let (label, id) = names(session, handle)?;
        labels.push(format!("{label} (id {})", hex::encode(id)));
    }
    labels.sort_unstable();
    Ok(if labels.is_empty() { "none".to_owned() } else { labels.join(", ") })
}

/// RSA numbers are readable on the private key itself; an EC point only on the public object.
///
/// SoftHSM writes down that there is a private key before it writes the key, and the process dies
/// (measured on 2.6.1) when it uses one that was left so by a crash.
fn public_half(
    session: &Session,
    private: ObjectHandle,
    label: &str,
    id: &[u8],
) -> Result<PublicKey> {
    let kinds = [AttributeType::KeyType, AttributeType::Modulus, AttributeType::EcParams];
    let own = attributes(session, private, &kinds)?;
    if own.iter().any(is_empty) {
        return Err(Error::Key(format!(
            "key {label} (id {}): its private half is a name without a key, as a crash during its \
             making leaves it; destroy it and make another",
            hex::encode(id)
        )));
    }
    if own.iter().any(|attribute| matches!(attribute, Attribute::KeyType(KeyType::RSA)))
        && let Some(key) = public_key(session, private)?
    {
        return Ok(key);
    }
    let mut filter = vec![Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Token(true)];
    filter.push(if id.is_empty() {
        Attribute::Label(label.into())
    } else {
        Attribute::Id(id.into())
    });
    let found =
        session.find_objects(&filter).map_err(Error::during("searching for a public key"))?;
    match found[..] {
        [public] => public_key(session, public)?.ok_or_else(|| {
            Error::Key(format!("key {label}: neither an RSA key nor one on P-256, P-384 or P-521"))
        }),
        _ => Err(Error::Key(format!(
            "key {label} (id {}): {} public keys belong to it, expected one; import its public key",
            hex::encode(id),
            found.len()
        ))),
    }
}

/// Whether it is a number of a key, and not there.
fn is_empty(attribute: &Attribute) -> bool {
    match attribute {
        Attribute::Modulus(number) | Attribute::EcParams(number) => number.is_empty(),
        _ => false,
    }
}

/// The public key in the attributes of `object`; `None` when they hold no usable one.
pub fn public_key(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>> {
    let (mut modulus, mut exponent, mut curve, mut point) = (None, None, None, None);
    let kinds = [
        AttributeType::Modulus,
        AttributeType::PublicExponent,
        AttributeType::EcParams,
        AttributeType::EcPoint,
    ];
    for attribute in attributes(session, object, &kinds)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            Attribute::EcParams(bytes) => curve = template::curve_of(&bytes),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            _ => {}
        }
    }
    if let (Some(modulus), Some(exponent)) = (&modulus, &exponent)
        && let Ok(key) = RsaPublicKey::from_components(modulus, exponent)
    {
        return Ok(Some(PublicKey::Rsa(key)));
    }
    Ok(curve
        .zip(point)
        .and_then(|(curve, point)| template::ec_key(curve, &point))
        .map(PublicKey::Ec))
}

fn attributes(
    session: &Session,
    object: ObjectHandle,
    kinds: &[AttributeType],
) -> Result<Vec<Attribute>> {
    session.get_attributes(object, kinds).map_err(Error::during("reading an object's attributes"))
}
