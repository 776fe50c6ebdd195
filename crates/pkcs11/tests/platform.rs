//! Modules, tokens and logins on real tokens.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    fs,
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use cryptoki::{
    mechanism::Mechanism,
    object::Attribute,
    session::{SessionState, UserType},
    types::AuthPin,
};
use kasbah_pkcs11::{
    error::{Error, ErrorClass},
    module::Module,
    provision,
    token::{self, PinSource, Token},
    uri::KeyUri,
};
use kasbah_testkit::tokens::{Kryoptic, LABEL, OpenCryptoki, PIN, SO_PIN, SoftHsm, TestToken};
use kasbah_trust::SecretSource;

#[test]
fn a_missing_module_names_setting_and_path() {
    let error = Module::load("modules.softhsm.path", Path::new("/no/such.so")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Module(_)), "{error:?}");
    assert!(text.starts_with("modules.softhsm.path: /no/such.so cannot be opened"), "{text}");
    assert!(text.contains("install the module"), "{text}");
}

#[test]
fn a_file_that_is_no_module_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.so");
    fs::write(&path, "not a library").unwrap();
    let error = Module::load("modules.x.path", &path).unwrap_err();
    assert!(error.to_string().contains("is no PKCS#11 module"), "{error}");
}

#[test]
fn a_module_is_loaded_once_whatever_its_path() {
    let fixture = SoftHsm::fresh();
    let link = fixture.dir().join("link.so");
    std::os::unix::fs::symlink(fixture.module_path(), &link).unwrap();
    let module = load(&fixture);
    assert!(Arc::ptr_eq(&module, &Module::load("modules.other.path", &link).unwrap()));
}

#[test]
fn a_module_initialised_by_somebody_else_is_shared() {
    let fixture = SoftHsm::fresh();
    let context = cryptoki::context::Pkcs11::new(fixture.module_path()).unwrap();
    context
        .initialize(cryptoki::context::CInitializeArgs::new(
            cryptoki::context::CInitializeFlags::OS_LOCKING_OK,
        ))
        .unwrap();
    open(&fixture).unwrap();
}

#[test]
fn modules_live_side_by_side() {
    let (softhsm, kryoptic) = (SoftHsm::fresh(), Kryoptic::fresh());
    let (one, two) = (open(&softhsm).unwrap(), open(&kryoptic).unwrap());
    assert!(!Arc::ptr_eq(one.module(), two.module()));
    assert!(!Arc::ptr_eq(&one, &two));
    one.open_session().unwrap();
    two.open_session().unwrap();
}

#[test]
fn a_missing_token_lists_those_found() {
    let fixture = SoftHsm::fresh();
    let error = Token::open(&load(&fixture), "prod", None, pin(&fixture)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Token(_)), "{error:?}");
    assert!(text.contains("token prod: there is none"), "{text}");
    assert!(text.contains("tokens found: kas"), "{text}");
    assert!(text.contains("kasbah hsm init"), "{text}");
}

#[test]
fn a_slot_without_that_token_is_refused() {
    let fixture = SoftHsm::fresh();
    let error = Token::open(&load(&fixture), LABEL, Some(77), pin(&fixture)).unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error:?}");
}

#[test]
fn two_tokens_of_one_label_are_ambiguous_without_a_slot() {
    let fixture = SoftHsm::fresh();
    let module = load(&fixture);
    init_blank(&module, LABEL);
    let error = Token::open(&module, LABEL, None, pin(&fixture)).unwrap_err();
    assert!(error.to_string().contains("there are several"), "{error}");
    assert!(error.to_string().contains("`slot`"), "{error}");

    let slots = module.context().get_slots_with_initialized_token().unwrap();
    let tokens: Vec<_> = slots
        .iter()
        .map(|slot| Token::open(&module, LABEL, Some(slot.id()), pin(&fixture)).unwrap())
        .collect();
    assert_eq!(tokens.len(), 2);
    assert!(!Arc::ptr_eq(&tokens[0], &tokens[1]));
}

#[test]
fn configurations_of_one_token_share_it() {
    let fixture = SoftHsm::fresh();
    let module = load(&fixture);
    let token = open(&fixture).unwrap();
    assert!(Arc::ptr_eq(&token, &open(&fixture).unwrap()));
    let slot = token.slot().unwrap().id();
    let by_slot = Token::open(&module, LABEL, Some(slot), pin(&fixture)).unwrap();
    assert!(Arc::ptr_eq(&token, &by_slot));
}

#[test]
fn another_pin_for_the_same_token_is_refused() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let other = PinSource { name: "pin2".into(), ..pin(&fixture) };
    let error = Token::open(token.module(), LABEL, None, other).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert!(text.contains("pin1") && text.contains("pin2"), "{text}");
}

#[test]
fn softhsm_sees_a_wrong_pin_once() {
    wrong_pin_is_tried_once(&SoftHsm::fresh());
}

#[test]
fn kryoptic_sees_a_wrong_pin_once() {
    wrong_pin_is_tried_once(&Kryoptic::fresh());
}

/// Once refused, the PIN is not tried again even when the file would now hold the right one: so no
/// later attempt reached the token.
fn wrong_pin_is_tried_once(fixture: &TestToken) {
    fs::write(fixture.pin_file(), "00000000").unwrap();
    let first = open(fixture).unwrap_err();
    assert!(matches!(first, Error::Pin(_)), "{first:?}");
    assert!(first.to_string().contains("pin1"), "{first}");
    assert!(!first.to_string().contains("00000000"), "{first}");

    fs::write(fixture.pin_file(), PIN).unwrap();
    let module = load(fixture);
    for _ in 0..20 {
        assert_eq!(open(fixture).unwrap_err().to_string(), first.to_string());
    }
    let slot = module.context().get_slots_with_initialized_token().unwrap()[0];
    let by_slot = Token::open(&module, LABEL, Some(slot.id()), pin(fixture)).unwrap_err();
    assert_eq!(by_slot.to_string(), first.to_string());
    let other = PinSource { name: "pin2".into(), ..pin(fixture) };
    assert!(matches!(Token::open(&module, LABEL, None, other), Err(Error::Config(_))));
    // A restart of the module is no restart of the process.
    module.restart().unwrap();
    assert_eq!(open(fixture).unwrap_err().to_string(), first.to_string());

    // The token itself is fine, and would have said yes.
    let slot = module.context().get_slots_with_initialized_token().unwrap()[0];
    let session = module.context().open_ro_session(slot).unwrap();
    session.login(UserType::User, Some(&secret(PIN))).unwrap();
}

#[test]
fn an_unreadable_pin_is_no_attempt() {
    let fixture = SoftHsm::fresh();
    fs::write(fixture.pin_file(), "\n").unwrap();
    let error = open(&fixture).unwrap_err();
    assert!(matches!(error, Error::Pin(_)), "{error:?}");
    assert!(error.to_string().contains("is empty"), "{error}");

    fs::write(fixture.pin_file(), PIN).unwrap();
    open(&fixture).unwrap();
}

#[test]
fn a_pin_that_never_reached_the_token_may_be_replaced() {
    let fixture = SoftHsm::fresh();
    let missing = SecretSource::File(fixture.dir().join("missing"));
    let wrong = PinSource { name: "pin0".into(), source: missing };
    let error = Token::open(&load(&fixture), LABEL, None, wrong).unwrap_err();
    assert!(matches!(error, Error::Pin(_)), "{error:?}");
    open(&fixture).unwrap();
}

#[test]
fn every_session_is_logged_in_and_read_only() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    for _ in 0..3 {
        let session = token.open_session().unwrap();
        let state = session.get_session_info().unwrap().session_state();
        assert!(matches!(state, SessionState::RoUser), "{state:?}");
    }
    // The guard session kept the login although every other session is closed.
    let state = token.open_session().unwrap().get_session_info().unwrap().session_state();
    assert!(matches!(state, SessionState::RoUser), "{state:?}");
}

#[test]
fn many_threads_share_one_login() {
    let fixture = SoftHsm::fresh();
    load(&fixture);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                open(&fixture).unwrap().open_session().unwrap();
            });
        }
    });
}

#[test]
fn a_lost_login_is_restored_once() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let session = token.open_session().unwrap();
    session.logout().unwrap();
    let state = session.get_session_info().unwrap().session_state();
    assert!(matches!(state, SessionState::RoPublic), "{state:?}");
    token.restore_login().unwrap();
    token.restore_login().unwrap();
    let state = session.get_session_info().unwrap().session_state();
    assert!(matches!(state, SessionState::RoUser), "{state:?}");
}

#[test]
fn softhsm_restarts_when_nobody_is_inside() {
    restart(&SoftHsm::fresh());
}

#[test]
fn kryoptic_restarts_when_nobody_is_inside() {
    restart(&Kryoptic::fresh());
}

fn restart(fixture: &TestToken) {
    let token = open(fixture).unwrap();
    let session = token.open_session().unwrap();
    let error = token.module().restart().unwrap_err();
    assert!(matches!(error, Error::InUse { sessions: 1, .. }), "{error:?}");
    session.get_session_info().unwrap();

    drop(session);
    token.module().restart().unwrap();
    let session = token.open_session().unwrap();
    let state = session.get_session_info().unwrap().session_state();
    assert!(matches!(state, SessionState::RoUser), "{state:?}");
}

#[test]
fn softhsm_token_that_comes_back_is_found_again() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let (here, away) = (fixture.dir().join("tokens"), fixture.dir().join("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    token.module().restart().unwrap();
    let error = token.open_session().unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error:?}");

    fs::remove_dir_all(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    token.module().restart().unwrap();
    token.open_session().unwrap();
}

#[test]
fn a_missing_key_lists_those_found() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let session = token.open_rw_session().unwrap();
    let find = |uri: &str| token::find_key(&session, LABEL, &uri.parse().unwrap()).unwrap_err();
    let text = find("pkcs11:object=r1").to_string();
    assert!(text.contains("keys found: none"), "{text}");
    assert!(text.contains("kasbah hsm generate"), "{text}");

    key_pair(&session, "r2", b"\x01");
    let text = find("pkcs11:object=r1").to_string();
    assert!(text.contains("keys found: r2 (id 01)"), "{text}");
    assert!(matches!(find("pkcs11:object=r2;id=%02"), Error::Key(_)));
    assert!(matches!(find("pkcs11:object=r2;token=other"), Error::Uri(_)));
}

#[test]
fn an_ambiguous_key_is_refused() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let session = token.open_rw_session().unwrap();
    key_pair(&session, "r1", b"\x01");
    key_pair(&session, "r1", b"\x02");
    let by_label = token::find_key(&session, LABEL, &KeyUri::for_label("r1"));
    let text = by_label.unwrap_err().to_string();
    assert!(text.contains("has 2 private keys"), "{text}");
    assert!(text.contains("r1 (id 01), r1 (id 02)"), "{text}");

    let by_id = "pkcs11:object=r1;id=%02".parse().unwrap();
    assert_eq!(token::find_key(&session, LABEL, &by_id).unwrap().id, b"\x02");
}

#[test]
fn opencryptoki_is_found_by_label_or_by_slot() {
    let fixture = OpenCryptoki::fresh();
    let module = load(&fixture);
    // Its token information may not parse (a clock without a time); then the slot must name it.
    let token = Token::open(&module, LABEL, Some(OpenCryptoki::SLOT), pin(&fixture)).unwrap();
    token.open_session().unwrap();
}

#[test]
fn a_call_without_login_is_classified() {
    let fixture = SoftHsm::fresh();
    let token = open(&fixture).unwrap();
    let session = token.open_session().unwrap();
    session.logout().unwrap();
    let error = session.generate_key(&Mechanism::AesKeyGen, &[Attribute::Private(true)]);
    assert_eq!(ErrorClass::of(&error.unwrap_err()), ErrorClass::Login);
}

fn key_pair(session: &cryptoki::session::Session, label: &str, id: &[u8]) {
    let names = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id.into())];
    let mut public = names.to_vec();
    public.push(Attribute::ModulusBits(2048.into()));
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &names).unwrap();
}

fn init_blank(module: &Arc<Module>, label: &str) {
    // `provision::init_token` refuses a label that exists.
    assert!(matches!(
        provision::init_token(module, label, &secret(SO_PIN), &secret(PIN)),
        Err(Error::Exists(_))
    ));
    let context = module.context();
    let blank = context.get_slots_with_token().unwrap().into_iter();
    let mut blank =
        blank.filter(|slot| !context.get_token_info(*slot).unwrap().token_initialized());
    let before = context.get_slots_with_initialized_token().unwrap();
    context.init_token(blank.next().unwrap(), &secret(SO_PIN), label).unwrap();
    let after = context.get_slots_with_initialized_token().unwrap();
    let slot = after.into_iter().find(|slot| !before.contains(slot)).unwrap();
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&secret(SO_PIN))).unwrap();
    session.init_pin(&secret(PIN)).unwrap();
}

fn secret(text: &str) -> AuthPin {
    AuthPin::from(Box::<str>::from(text))
}

fn load(fixture: &TestToken) -> Arc<Module> {
    Module::load("modules.test.path", fixture.module_path()).unwrap()
}

fn pin(fixture: &TestToken) -> PinSource {
    PinSource { name: "pin1".into(), source: SecretSource::File(fixture.pin_file()) }
}

fn open(fixture: &TestToken) -> Result<Arc<Token>, Error> {
    Token::open(&load(fixture), fixture.label(), None, pin(fixture))
}
