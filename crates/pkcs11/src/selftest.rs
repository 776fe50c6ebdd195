//! What a key and its module really do, found out by doing it.
//!
//! Templates and attributes are promises; modules break them (one drops `SENSITIVE` from unwrap
//! templates without a word). So before a key is used, a data key made here goes the whole way: it
//! must come out sealed, make the right HMAC, open with a private key held here, and leave nothing
//! behind. A key counts as enforcing its custody only if it also refuses the unwraps that would
//! break it.

use std::sync::OnceLock;

use cryptoki::{
    context::Pkcs11,
    error::{Error as Cryptoki, RvError},
    mechanism::MechanismType,
    object::ObjectHandle,
    slot::Slot,
};
use kasbah_crypto::{
    Algorithm, Dek, PolicyBinding, PrivateKey, PublicKey, WrappedDek, binding, rsa::RsaPublicKey,
};
use kasbah_trust::{Boundary, Error};

use crate::{
    error::ErrorClass,
    job::Key,
    kek::Kwp,
    module::Module,
    object::Ledger,
    rewrap::{self, Exposure, Fault, Stage},
    template::{self, DekTemplate},
};

/// Text whose HMAC the self-test takes.
const POLICY: &str = "c2VsZi10ZXN0";

/// A fixed length would refuse data keys of 16 and 24 bytes, or cut longer ones, so that template
/// comes second.
const TEMPLATES: [DekTemplate; 2] = [DekTemplate::WithoutLength, DekTemplate::WithLength];

const NO_UNWRAP: &str = "sealed custody required, but the token cannot unwrap with this key into a \
                         data key that signs and can be wrapped";
const NO_EC: &str = "sealed custody required, but the token cannot do HKDF and AES-GCM key \
                     wrapping, which EC keys need for it";
const NOT_REFUSED: &str = "sealed custody required, but the key lacks CKA_UNWRAP_TEMPLATE: it \
                           unwraps into objects that are readable, permanent or wrapping keys";

/// What a token can do beside RSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// EC keys can be sealed: HKDF, and AES-GCM for wrapping and unwrapping.
    pub(crate) seals_ec: bool,
    /// How private keys can be wrapped, if they can.
    pub(crate) kwp: Option<Kwp>,
    /// What stands between the token and this process.
    pub(crate) boundary: Boundary,
}

/// What is known of one key.
#[derive(Debug)]
pub(crate) struct Report {
    /// How it unwraps sealed, or why it does not.
    pub(crate) sealed: Result<DekTemplate, &'static str>,
    /// Whether the key itself enforces that. Never for EC keys, nor for wrapped ones.
    pub(crate) enforced: bool,
    /// What it lacks for that, where more can be demanded of it: RSA keys only.
    pub(crate) gap: Option<&'static str>,
    /// How data keys get out of it, if they do.
    pub(crate) exposure: Option<Exposure>,
}

impl Abilities {
    /// Asks the module. What it does not know of counts as missing.
    pub(crate) fn of(module: &Module, slot: Slot) -> Self {
        let context = module.context();
        let info = |kind| context.get_mechanism_info(slot, kind).ok();
        let hkdf = info(MechanismType::HKDF_DERIVE).is_some_and(|info| info.derive());
        let gcm = info(MechanismType::AES_GCM).is_some_and(|info| info.wrap() && info.unwrap());
        let kwp = Kwp::of(context, slot);
        Self { seals_ec: hkdf && gcm, kwp, boundary: boundary(module, context, slot) }
    }
}

/// Software tokens like to call themselves hardware, so a name known to be software wins over the
/// flag, and no flag means no boundary.
fn boundary(module: &Module, context: &Pkcs11, slot: Slot) -> Boundary {
    let file = module.path().file_name().map(|name| name.to_string_lossy().into_owned());
    if file.is_some_and(|name| name.contains("p11-kit-client")) {
        return Boundary::Process;
    }
    let mut names = String::new();
    if let Ok(info) = context.get_library_info() {
        names += info.manufacturer_id();
        names += info.library_description();
    }
    if let Ok(info) = context.get_token_info(slot) {
        names += info.manufacturer_id();
        names += info.model();
    }
    let names = names.to_lowercase();
    let is_software = ["soft", "kryoptic", "nss", "mozilla", "opencryptoki"]
        .iter()
        .any(|known| names.contains(known));
    match context.get_slot_info(slot) {
        Ok(info) if info.hardware_slot() && !is_software => Boundary::Hardware,
        _ => Boundary::SameProcess,
    }
}

/// A data key of the self-test's own.
struct Sample {
    binding: PolicyBinding,
    wrapped: WrappedDek,
}

impl Sample {
    fn new(key: &PublicKey) -> Result<Self, Error> {
        let dek = Dek::generate().map_err(Error::internal)?;
        let binding = PolicyBinding::from(*binding::compute(&dek, POLICY));
        let wrapped = key.wrap(&dek).map_err(Error::internal)?;
        Ok(Self { binding, wrapped })
    }

    /// Whether `dek` is the data key that was wrapped.
    fn is(&self, dek: &Dek) -> bool {
        let mac = binding::compute(dek, POLICY);
        self.binding.verify(mac.as_ref()).is_ok()
    }
}

/// Examines a key whose private part is `private`.
///
/// # Errors
/// A fault of the session or the device; `NotPermitted` when the key is of no use at all.
pub(crate) fn examine(
    ledger: &Ledger<'_>,
    abilities: Abilities,
    key: &Key,
    private: ObjectHandle,
) -> Result<Report, Fault> {
    let sample = Sample::new(&key.public)?;
    let sealed = match &key.public {
        PublicKey::Ec(_) if !abilities.seals_ec => Err(Refusal::Cannot(NO_EC)),
        PublicKey::Ec(_) => seals(ledger, private, &sample, DekTemplate::WithoutLength, NO_EC)?,
        PublicKey::Rsa(_) => seals_rsa(ledger, private, &sample)?,
    };
    let exposure = exposes(ledger, private, &key.public, &sample)?;
    if exposure.is_none()
        && let Err(refusal) = &sealed
    {
        return Err(refusal.useless());
    }
    let is_rsa = matches!(key.public, PublicKey::Rsa(_));
    let is_wrapped = key.place.is_wrapped();
    let gap = if is_rsa && sealed.is_ok() {
        gap(ledger, private, is_wrapped, &sample.wrapped)?
    } else {
        None
    };
    let enforced = is_rsa && sealed.is_ok() && gap.is_none() && !is_wrapped;
    let sealed = sealed.map_err(|refusal| refusal.reason());
    let report = Report { sealed, enforced, gap, exposure };
    tracing::debug!(kid = %key.kid, ?report, boundary = abilities.boundary.as_str(), "key examined");
    damage(ledger, private, key, &report);
    Ok(report)
}

/// Why a key does not seal.
enum Refusal {
    Cannot(&'static str),
    /// This call failed; perhaps because the token is down.
    Failed(&'static str, Cryptoki),
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Cannot(reason) | Self::Failed(reason, _) => reason,
        }
    }

    /// What to say of a key that neither seals nor exposes.
    fn useless(&self) -> Fault {
        match self {
            Self::Failed(_, error) if ErrorClass::of(error) != ErrorClass::Internal => {
                Error::unavailable(format!("the self-test of the key failed: {error}")).into()
            }
            _ => Error::NotPermitted(
                "the key's attributes allow neither unwrapping nor decrypting nor deriving",
            )
            .into(),
        }
    }
}

fn seals_rsa(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    sample: &Sample,
) -> Result<Result<DekTemplate, Refusal>, Fault> {
    let mut outcome = Err(Refusal::Cannot(NO_UNWRAP));
    for template in TEMPLATES {
        outcome = seals(ledger, private, sample, template, NO_UNWRAP)?;
        if outcome.is_ok() {
            return Ok(outcome);
        }
    }
    if is_born_readable(ledger, private, sample)? {
        outcome = Err(Refusal::Cannot(rewrap::READABLE));
    }
    Ok(outcome)
}

/// The whole way of one data key.
fn seals(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    sample: &Sample,
    template: DekTemplate,
    cannot: &'static str,
) -> Result<Result<DekTemplate, Refusal>, Fault> {
    let walk = || {
        let dek = rewrap::unwrap_sealed(ledger, private, &sample.wrapped, template)?;
        rewrap::check_unreadable(ledger, &dek)?;
        rewrap::verify_binding(ledger, &dek, POLICY, &sample.binding)?;
        rewrap::wrap_oaep(ledger, &dek, client()?.0)
    };
    let failed = match walk() {
        Ok(wrapped) => {
            let opened = client()?.1.unwrap_dek(&WrappedDek::Rsa(wrapped));
            let same = opened.is_ok_and(|dek| sample.is(&dek));
            let outcome = if same { Ok(template) } else { Err(Refusal::Cannot(cannot)) };
            return Ok(outcome);
        }
        Err(failed) => failed,
    };
    match failed {
        Fault::Call(error, stage) if is_passing(&error) => Err(Fault::Call(error, stage)),
        Fault::Call(error, _) => Ok(Err(Refusal::Failed(cannot, error))),
        Fault::Answer(Error::NotPermitted(reason)) => Ok(Err(Refusal::Cannot(reason))),
        Fault::Answer(Error::Decrypt) | Fault::ShortKey => Ok(Err(Refusal::Cannot(cannot))),
        Fault::Answer(error) => Err(Fault::Answer(error)),
    }
}

/// Faults that say nothing of what the key can do.
pub(crate) fn is_passing(error: &Cryptoki) -> bool {
    use ErrorClass as C;
    matches!(ErrorClass::of(error), C::Device | C::Login | C::Session | C::StaleHandle)
}

/// Whether the token leaves what it unwraps readable, asked with a template that every module takes.
fn is_born_readable(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    sample: &Sample,
) -> Result<bool, Fault> {
    let WrappedDek::Rsa(ciphertext) = &sample.wrapped else { return Ok(false) };
    match rewrap::unwrap_oaep(ledger, private, ciphertext, &rewrap::readable_dek()) {
        Ok(dek) => Ok(!rewrap::is_sensitive(ledger, &dek)?),
        Err(Fault::Call(error, stage)) if is_passing(&error) => Err(Fault::Call(error, stage)),
        Err(_) => Ok(false),
    }
}

fn exposes(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    key: &PublicKey,
    sample: &Sample,
) -> Result<Option<Exposure>, Fault> {
    let ways: &[Exposure] = match key {
        PublicKey::Ec(_) => &[Exposure::Agree],
        PublicKey::Rsa(_) => &[
            Exposure::Decrypt,
            Exposure::Export(TEMPLATES[0]),
            Exposure::Export(TEMPLATES[1]),
            Exposure::Read,
        ],
    };
    for &way in ways {
        match rewrap::expose(ledger, private, &sample.wrapped, way) {
            Ok(dek) if sample.is(&dek) => return Ok(Some(way)),
            Err(Fault::Call(error, stage)) if is_passing(&error) => {
                return Err(Fault::Call(error, stage));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// What keeps the key from enforcing its custody: a line of the hardened template that does not read
/// back, or, for what cannot be read back, an unwrap that ought to be refused.
fn gap(
    ledger: &Ledger<'_>,
    private: ObjectHandle,
    is_wrapped: bool,
    wrapped: &WrappedDek,
) -> Result<Option<&'static str>, Fault> {
    let gaps = if is_wrapped {
        template::opened_gaps(ledger.session, private)?
    } else {
        template::hardened_gaps(ledger.session, private)?
    };
    if let Some(line) = gaps.first() {
        return Ok(Some(lacks(line)));
    }
    let WrappedDek::Rsa(ciphertext) = wrapped else { return Ok(Some(NOT_REFUSED)) };
    for (_, forbidden) in template::forbidden_unwraps() {
        match rewrap::unwrap_oaep(ledger, private, ciphertext, &forbidden) {
            Err(Fault::Call(error, stage)) if is_passing(&error) => {
                return Err(Fault::Call(error, stage));
            }
            Err(Fault::Call(error, _)) if is_refusal(&error) => {}
            Ok(_) | Err(_) => return Ok(Some(NOT_REFUSED)),
        }
    }
    Ok(None)
}

/// Codes by which a module refuses a template. Any other failure proves nothing.
pub(crate) fn is_refusal(error: &Cryptoki) -> bool {
    use RvError as E;
    matches!(
        error,
        Cryptoki::Pkcs11(
            E::TemplateInconsistent
                | E::AttributeValueInvalid
                | E::AttributeReadOnly
                | E::AttributeTypeInvalid
                | E::ActionProhibited
                | E::SessionReadOnly,
            _
        )
    )
}

macro_rules! lacking {
    ($($line:literal)*) => {
        /// The refusal that names a line of the hardened template.
        fn lacks(line: &str) -> &'static str {
            match line {
                $($line => concat!("sealed custody required, but the key lacks CKA_", $line),)*
                _ => "sealed custody required, but the key lacks a line of the hardened template",
            }
        }
    };
}

lacking! {
    "TOKEN=true" "TOKEN=false" "PRIVATE=true" "SENSITIVE=true" "UNWRAP=true" "EXTRACTABLE=false" "DECRYPT=false"
    "SIGN=false" "SIGN_RECOVER=false" "DERIVE=false" "MODIFIABLE=false" "COPYABLE=false"
    "ALLOWED_MECHANISMS={RSA_PKCS_OAEP}"
}

/// The client of all self-tests of this process.
fn client() -> Result<(&'static RsaPublicKey, &'static PrivateKey), Error> {
    static CLIENT: OnceLock<Option<(RsaPublicKey, PrivateKey)>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        let private = PrivateKey::generate(Algorithm::Rsa2048).ok()?;
        match private.public_key() {
            PublicKey::Rsa(public) => Some((public, private)),
            PublicKey::Ec(_) => None,
        }
    });
    let client = client.as_ref().map(|(public, private)| (public, private));
    client.ok_or_else(|| Error::internal("no RSA key could be made for the self-test"))
}

/// Codes with which the module answers damaged ciphertexts, for the log: all of them take the same
/// path, see [`crate::canary`].
fn damage(ledger: &Ledger<'_>, private: ObjectHandle, key: &Key, report: &Report) {
    let (Ok(template), PublicKey::Rsa(public)) = (report.sealed, &key.public) else { return };
    let Ok(WrappedDek::Rsa(sound)) = key.canary.wrapped(&key.public) else { return };
    let mut flipped = sound.clone();
    if let Some(byte) = flipped.last_mut() {
        *byte ^= 1;
    }
    let damaged = [
        ("flipped bit", flipped),
        ("wrong length", sound[1..].to_vec()),
        ("above the modulus", vec![0xff; public.modulus().len()]),
    ];
    for (damage, ciphertext) in damaged {
        let code = match rewrap::unwrap_oaep(ledger, private, &ciphertext, &template.attributes()) {
            Err(Fault::Call(Cryptoki::Pkcs11(code, _), Stage::Unwrap)) => code.to_string(),
            _ => "none".to_owned(),
        };
        tracing::debug!(kid = %key.kid, damage, code, "answer to a damaged ciphertext");
    }
}
