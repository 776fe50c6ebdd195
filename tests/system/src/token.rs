//! A test token as the PKCS#11 manager opens it, to put keys in before a server starts.

use std::sync::Arc;

use kasbah_pkcs11::{
    module::Module,
    token::{PinSource, Token},
};
use kasbah_testkit::tokens::TestToken;
use kasbah_trust::SecretSource;

/// Opens a token.
///
/// # Panics
/// When it cannot be opened.
pub fn open(fixture: &TestToken) -> Arc<Token> {
    let module = Module::load("module", fixture.module_path()).expect("the module loads");
    let pin = PinSource { name: "pin".into(), source: SecretSource::File(fixture.pin_file()) };
    Token::open(&module, fixture.label(), None, pin).expect("the token opens")
}
