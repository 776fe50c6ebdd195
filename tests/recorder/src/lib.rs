//! A PKCS#11 module that forwards to a real one and writes down every call.
//!
//! The real module is named by `KASBAH_RECORDER_MODULE`; each call becomes one line of JSON in the
//! file named by `KASBAH_RECORDER_LOG`: its number, function, return code, handles, mechanism,
//! templates, what went in and what came out. Bytes are in hex, PINs are `***`. `C_GetInterface` is
//! not exported, so callers use the 2.40 function list, which is recorded as a whole.
//!
//! For fault injection, `KASBAH_RECORDER_FAULT=C_UnwrapKey:0x30:5` has the fifth and every later
//! call of that function answer `0x30` without reaching the real module; the record marks such
//! calls as `injected`.
//!
//! Also for fault injection, the process can die at a chosen moment, as by `kill -9`. The file named
//! by `KASBAH_RECORDER_KILL` orders that, and is read at each call; an absent one orders nothing:
//! - `C_GenerateKeyPair:before` kills when this function is called, before the real module is;
//! - `C_GenerateKeyPair:during:500` kills 500 microseconds after that, whatever happens then;
//! - `C_GenerateKeyPair:after:500` kills 500 microseconds after the real module returned, and with
//!   0 before the caller learns of it.
#![expect(unsafe_code, reason = "the C interface of PKCS#11 is raw pointers")]
#![expect(clippy::missing_safety_doc, reason = "PKCS#11 says what callers owe each function")]

mod kill;
mod record;
mod table;

use std::{env, sync::OnceLock};

use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK,
};

/// The real module's functions, and ours in front of them.
struct Lists {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
}

/// Entry point of every PKCS#11 module (PKCS#11 2.40, section 5.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(lists) = lists() else { return CKR_GENERAL_ERROR };
    // SAFETY: not null, so it is where the caller wants the pointer; nobody writes through it.
    unsafe { *list = (&raw const lists.ours).cast_mut() };
    CKR_OK
}

pub(crate) fn real() -> Option<&'static CK_FUNCTION_LIST> {
    lists().map(|lists| &lists.real)
}

fn lists() -> Option<&'static Lists> {
    static LISTS: OnceLock<Option<Lists>> = OnceLock::new();
    LISTS.get_or_init(load).as_ref()
}

/// Type of that entry point.
type Entry = unsafe extern "C" fn(CK_FUNCTION_LIST_PTR_PTR) -> CK_RV;

fn load() -> Option<Lists> {
    let path = env::var_os("KASBAH_RECORDER_MODULE")?;
    // Never unloaded: the function pointers must stay good.
    // SAFETY: loading a module runs its initialisers; the test names one it trusts.
    let library = Box::leak(Box::new(unsafe { libloading::Library::new(path) }.ok()?));
    // SAFETY: that is the type of this function in every module.
    let entry = unsafe { library.get::<Entry>(b"C_GetFunctionList") }.ok()?;
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for the pointer.
    if unsafe { entry(&raw mut list) } != CKR_OK || list.is_null() {
        return None;
    }
    // SAFETY: not null and of version 2, whose layout every 2.x and 3.x module keeps here.
    let real = unsafe { *list };
    let mut ours = real;
    table::replace(&mut ours);
    ours.C_GetFunctionList = Some(C_GetFunctionList);
    Some(Lists { real, ours })
}
