//! Calls as lines of JSON. Pointers and lengths are those that a PKCS#11 caller gave.

use std::{
    collections::HashMap,
    env,
    fs::{File, OpenOptions},
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_ECDH1_DERIVE_PARAMS, CK_GCM_PARAMS, CK_MECHANISM, CK_RV, CK_ULONG,
    CKM_AES_GCM, CKM_ECDH1_DERIVE, CKR_OK,
};
use serde_json::{Value, json};

struct Log {
    file: File,
    calls: u64,
}

/// Writes down one call. Fails loudly: a record with holes would prove nothing.
pub(crate) fn record(function: &str, code: CK_RV, details: &Value) {
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
        "seq": log.calls, "function": function, "thread": thread, "rv": code, "details": details,
    });
    if let Err(error) = writeln!(log.file, "{line}") {
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
    hex(unsafe { std::slice::from_raw_parts(data, usize::try_from(len).unwrap_or(0)) })
}

/// Output, in hex; null for a query of its length and for a failed call.
pub(crate) fn output(code: CK_RV, data: *const CK_BYTE, len: *const CK_ULONG) -> Value {
    if code != CKR_OK || data.is_null() || len.is_null() {
        return Value::Null;
    }
    input(data, unsafe { *len })
}

/// A number that the call wrote.
pub(crate) fn number(code: CK_RV, place: *const CK_ULONG) -> Value {
    if code != CKR_OK || place.is_null() { Value::Null } else { json!(unsafe { *place }) }
}

/// Numbers that the call wrote.
pub(crate) fn numbers(code: CK_RV, places: *const CK_ULONG, count: *const CK_ULONG) -> Value {
    if code != CKR_OK || places.is_null() || count.is_null() {
        return Value::Null;
    }
    let count = usize::try_from(unsafe { *count }).unwrap_or(0);
    json!(unsafe { std::slice::from_raw_parts(places, count) })
}

/// Attributes as pairs of type and value in hex; a value is null when it was not returned.
pub(crate) fn attributes(template: *const CK_ATTRIBUTE, count: CK_ULONG) -> Value {
    if template.is_null() {
        return json!([]);
    }
    let count = usize::try_from(count).unwrap_or(0);
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
    let Some(mechanism) = (unsafe { mechanism.as_ref() }) else { return Value::Null };
    let parameter = mechanism.pParameter;
    let decoded = match mechanism.mechanism {
        CKM_ECDH1_DERIVE if !parameter.is_null() => {
            let given = unsafe { &*parameter.cast::<CK_ECDH1_DERIVE_PARAMS>() };
            input(given.pPublicData, given.ulPublicDataLen)
        }
        CKM_AES_GCM if !parameter.is_null() => {
            let given = unsafe { &*parameter.cast::<CK_GCM_PARAMS>() };
            input(given.pIv, given.ulIvLen)
        }
        _ => input(parameter.cast(), mechanism.ulParameterLen),
    };
    json!({ "type": mechanism.mechanism, "parameter": decoded })
}

fn hex(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Value::String(digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect())
}
