//! Calls as lines of JSON.
//!
//! Every function here reads through pointers as the called function of PKCS#11 does: they are
//! null, or point at as much as the caller says and, on success, as much as the module wrote.

use std::{
    collections::HashMap,
    env,
    fs::{File, OpenOptions},
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_ECDH1_DERIVE_PARAMS, CK_GCM_PARAMS, CK_HKDF_PARAMS, CK_MECHANISM,
    CK_RSA_PKCS_OAEP_PARAMS, CK_RV, CK_ULONG, CKM_AES_GCM, CKM_ECDH1_DERIVE, CKM_HKDF_DERIVE,
    CKM_RSA_PKCS_OAEP, CKR_OK,
};
use serde_json::{Value, json};

struct Log {
    file: File,
    calls: u64,
}

/// Writes down one call; `injected` when the real module was not asked. Fails loudly: a record
/// with holes would prove nothing.
pub(crate) fn record(function: &str, code: CK_RV, injected: bool, details: &Value) {
    static LOG: OnceLock<Mutex<Log>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let path = env::var_os("KASBAH_RECORDER_LOG").unwrap_or_else(|| "/dev/null".into());
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("recorder: {}: {error}", path.display()));
        Mutex::new(Log { file, calls: 0 })
    });
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.calls += 1;
    let thread = format!("{:?}", thread::current().id());
    let line = json!({
        "seq": log.calls, "function": function, "thread": thread, "rv": code,
        "injected": injected, "details": details,
    });
    // In one piece: a test may read while others write.
    if let Err(error) = log.file.write_all(format!("{line}\n").as_bytes()) {
        panic!("recorder: {error}");
    }
}

/// The code to answer with instead of forwarding, if a fault is injected here.
pub(crate) fn fault(function: &str) -> Option<CK_RV> {
    static COUNTS: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
    let spec = env::var("KASBAH_RECORDER_FAULT").ok()?;
    let mut fields = spec.split(':');
    let (name, code, from) = (fields.next()?, fields.next()?, fields.next()?);
    if name != function {
        return None;
    }
    let code = CK_RV::from_str_radix(code.trim_start_matches("0x"), 16).ok()?;
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.get_or_insert_default().entry(name.to_owned()).or_default();
    *count += 1;
    (*count >= from.parse().ok()?).then_some(code)
}

/// Input of `len` bytes, in hex.
pub(crate) fn input(data: *const CK_BYTE, len: CK_ULONG) -> Value {
    if data.is_null() {
        return Value::Null;
    }
    // SAFETY: not null, so it is `len` bytes long.
    hex(unsafe { std::slice::from_raw_parts(data, usize::try_from(len).unwrap_or(0)) })
}

/// Output, in hex; null for a query of its length and for a failed call.
pub(crate) fn output(code: CK_RV, data: *const CK_BYTE, len: *const CK_ULONG) -> Value {
    if code != CKR_OK || data.is_null() || len.is_null() {
        return Value::Null;
    }
    // SAFETY: not null, and the module has just written it.
    input(data, unsafe { *len })
}

/// A number that the call wrote.
pub(crate) fn number(code: CK_RV, place: *const CK_ULONG) -> Value {
    if code != CKR_OK || place.is_null() {
        return Value::Null;
    }
    // SAFETY: not null, and the module has just written it.
    json!(unsafe { *place })
}

/// Numbers that the call wrote.
pub(crate) fn numbers(code: CK_RV, places: *const CK_ULONG, count: *const CK_ULONG) -> Value {
    if code != CKR_OK || places.is_null() || count.is_null() {
        return Value::Null;
    }
    // SAFETY: not null, and the module has just written it.
    let count = usize::try_from(unsafe { *count }).unwrap_or(0);
    // SAFETY: not null, and the module has just written this many.
    json!(unsafe { std::slice::from_raw_parts(places, count) })
}

/// Attributes as pairs of type and value in hex; a value is null when it was not returned.
pub(crate) fn attributes(template: *const CK_ATTRIBUTE, count: CK_ULONG) -> Value {
    if template.is_null() {
        return json!([]);
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: not null, so it has this many entries.
    let template = unsafe { std::slice::from_raw_parts(template, count) };
    let pairs = template.iter().map(|attribute| {
        let known = attribute.ulValueLen != CK_ULONG::MAX;
        let value =
            if known { input(attribute.pValue.cast(), attribute.ulValueLen) } else { Value::Null };
        json!([attribute.type_, value])
    });
    pairs.collect()
}

/// Number and parameters of a mechanism; what its parameters point at where that matters.
pub(crate) fn mechanism(mechanism: *const CK_MECHANISM) -> Value {
    // SAFETY: null or a mechanism.
    let Some(mechanism) = (unsafe { mechanism.as_ref() }) else { return Value::Null };
    let decoded = match mechanism.mechanism {
        CKM_RSA_PKCS_OAEP => parameter(mechanism).map(|given: &CK_RSA_PKCS_OAEP_PARAMS| {
            let label = input(given.pSourceData.cast(), given.ulSourceDataLen);
            json!({ "hash": given.hashAlg, "mgf": given.mgf, "label": label })
        }),
        CKM_ECDH1_DERIVE => parameter(mechanism).map(|given: &CK_ECDH1_DERIVE_PARAMS| {
            let public = input(given.pPublicData, given.ulPublicDataLen);
            json!({ "kdf": given.kdf, "public": public })
        }),
        CKM_HKDF_DERIVE => parameter(mechanism).map(|given: &CK_HKDF_PARAMS| {
            let (salt, info) =
                (input(given.pSalt, given.ulSaltLen), input(given.pInfo, given.ulInfoLen));
            json!({
                "extract": given.bExtract, "expand": given.bExpand,
                "hash": given.prfHashMechanism, "salt": salt, "info": info,
            })
        }),
        CKM_AES_GCM => parameter(mechanism).map(|given: &CK_GCM_PARAMS| {
            let (iv, aad) = (input(given.pIv, given.ulIvLen), input(given.pAAD, given.ulAADLen));
            json!({ "iv": iv, "aad": aad, "tag_bits": given.ulTagBits })
        }),
        _ => None,
    };
    let raw = || input(mechanism.pParameter.cast(), mechanism.ulParameterLen);
    json!({ "type": mechanism.mechanism, "parameter": decoded.unwrap_or_else(raw) })
}

/// The parameter block of a mechanism, if it has one of this type's size.
fn parameter<T>(mechanism: &CK_MECHANISM) -> Option<&T> {
    let fits = usize::try_from(mechanism.ulParameterLen) == Ok(size_of::<T>());
    let block = mechanism.pParameter.cast::<T>();
    // SAFETY: null, or as long as a `T`, which the mechanism says it is.
    if fits { unsafe { block.as_ref() } } else { None }
}

fn hex(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Value::String(digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect())
}
