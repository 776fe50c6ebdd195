//! The functions of PKCS#11 2.40, each forwarding to the real module and written down.

#![expect(non_snake_case, reason = "the names are those of PKCS#11")]

use std::ffi::c_void;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM,
    CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_SESSION_INFO, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR,
    CKR_FUNCTION_NOT_SUPPORTED,
};
use serde_json::json;

use crate::{
    kill, real,
    record::{attributes, fault, input, mechanism, number, numbers, output, record},
};

macro_rules! recorded {
    ($($name:ident($($arg:ident: $kind:ty),*) => |$rv:ident| { $($details:tt)* };)*) => {
        $(
            unsafe extern "C" fn $name($($arg: $kind),*) -> CK_RV {
                let after = kill::order(stringify!($name));
                let fault = fault(stringify!($name));
                let $rv = match (fault, real().and_then(|list| list.$name)) {
                    (Some(code), _) => code,
                    // SAFETY: our caller owes the real function exactly what it owes us.
                    (None, Some(function)) => unsafe { function($($arg),*) },
                    (None, None) => CKR_FUNCTION_NOT_SUPPORTED,
                };
                after.map(kill::die_in);
                record(stringify!($name), $rv, fault.is_some(), &json!({ $($details)* }));
                $rv
            }
        )*

        /// Puts ours in front of the real ones; what the real module lacks stays absent.
        pub(crate) fn replace(list: &mut CK_FUNCTION_LIST) {
            $(list.$name = list.$name.map(|_| $name as _);)*
        }
    };
}

recorded! {
    C_Initialize(a0: *mut c_void) => |rv| {  };
    C_Finalize(a0: *mut c_void) => |rv| {  };
    C_GetInfo(a0: *mut CK_INFO) => |rv| {  };
    C_GetSlotList(a0: CK_BBOOL, a1: *mut CK_SLOT_ID, a2: *mut CK_ULONG) => |rv| {  };
    C_GetSlotInfo(slot: CK_SLOT_ID, a1: *mut CK_SLOT_INFO) => |rv| { "slot": slot };
    C_GetTokenInfo(slot: CK_SLOT_ID, a1: *mut CK_TOKEN_INFO) => |rv| { "slot": slot };
    C_GetMechanismList(slot: CK_SLOT_ID, a1: *mut CK_MECHANISM_TYPE, a2: *mut CK_ULONG) => |rv| { "slot": slot };
    C_GetMechanismInfo(slot: CK_SLOT_ID, a1: CK_MECHANISM_TYPE, a2: *mut CK_MECHANISM_INFO) => |rv| { "slot": slot };
    C_InitToken(slot: CK_SLOT_ID, a1: *mut CK_UTF8CHAR, a2: CK_ULONG, a3: *mut CK_UTF8CHAR) => |rv| { "slot": slot, "pin": "***" };
    C_InitPIN(session: CK_SESSION_HANDLE, a1: *mut CK_UTF8CHAR, a2: CK_ULONG) => |rv| { "session": session, "pin": "***" };
    C_SetPIN(session: CK_SESSION_HANDLE, a1: *mut CK_UTF8CHAR, a2: CK_ULONG, a3: *mut CK_UTF8CHAR, a4: CK_ULONG) => |rv| { "session": session, "pin": "***" };
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, data: *mut c_void, notify: CK_NOTIFY, opened: *mut CK_SESSION_HANDLE) => |rv| { "slot": slot, "flags": flags, "session": number(rv, opened) };
    C_CloseSession(session: CK_SESSION_HANDLE) => |rv| { "session": session };
    C_CloseAllSessions(slot: CK_SLOT_ID) => |rv| { "slot": slot };
    C_GetSessionInfo(session: CK_SESSION_HANDLE, a0: *mut CK_SESSION_INFO) => |rv| { "session": session };
    C_GetOperationState(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "out": output(rv, out, out_len) };
    C_SetOperationState(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, key: CK_OBJECT_HANDLE, other: CK_OBJECT_HANDLE) => |rv| { "session": session };
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, a2: *mut CK_UTF8CHAR, a3: CK_ULONG) => |rv| { "session": session, "user": user, "pin": "***" };
    C_Logout(session: CK_SESSION_HANDLE) => |rv| { "session": session };
    C_CreateObject(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "template": attributes(template, count), "object": number(rv, object) };
    C_CopyObject(session: CK_SESSION_HANDLE, from: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "from": from, "template": attributes(template, count), "object": number(rv, object) };
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) => |rv| { "session": session, "object": object };
    C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG) => |rv| { "session": session, "object": object, "size": number(rv, size) };
    C_GetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => |rv| { "session": session, "object": object, "values": attributes(template, count) };
    C_SetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => |rv| { "session": session, "object": object, "template": attributes(template, count) };
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => |rv| { "session": session, "template": attributes(template, count) };
    C_FindObjects(session: CK_SESSION_HANDLE, found: *mut CK_OBJECT_HANDLE, most: CK_ULONG, count: *mut CK_ULONG) => |rv| { "session": session, "most": most, "found": numbers(rv, found, count) };
    C_FindObjectsFinal(session: CK_SESSION_HANDLE) => |rv| { "session": session };
    C_EncryptInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_Encrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_EncryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_EncryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "out": output(rv, out, out_len) };
    C_DecryptInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_Decrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DecryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DecryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "out": output(rv, out, out_len) };
    C_DigestInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM) => |rv| { "session": session, "mechanism": mechanism(by) };
    C_Digest(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DigestUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "in": input(data, len) };
    C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "key": key };
    C_DigestFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "out": output(rv, out, out_len) };
    C_SignInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_Sign(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "in": input(data, len) };
    C_SignFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "out": output(rv, out, out_len) };
    C_SignRecoverInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_SignRecover(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_VerifyInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_Verify(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, more: *mut CK_BYTE, more_len: CK_ULONG) => |rv| { "session": session, "in": input(data, len), "signature": input(more, more_len) };
    C_VerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "in": input(data, len) };
    C_VerifyFinal(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "in": input(data, len) };
    C_VerifyRecoverInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "key": key };
    C_VerifyRecover(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DigestEncryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DecryptDigestUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_SignEncryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_DecryptVerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "in": input(data, len), "out": output(rv, out, out_len) };
    C_GenerateKey(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "template": attributes(template, count), "object": number(rv, object) };
    C_GenerateKeyPair(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG, private: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut CK_OBJECT_HANDLE, private_key: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "public": attributes(public, public_count), "private": attributes(private, private_count), "public_key": number(rv, public_key), "private_key": number(rv, private_key) };
    C_WrapKey(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG) => |rv| { "session": session, "mechanism": mechanism(by), "wrapping": wrapping, "key": key, "out": output(rv, out, out_len) };
    C_UnwrapKey(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "unwrapping": unwrapping, "in": input(data, len), "template": attributes(template, count), "object": number(rv, object) };
    C_DeriveKey(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM, base: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) => |rv| { "session": session, "mechanism": mechanism(by), "base": base, "template": attributes(template, count), "object": number(rv, object) };
    C_SeedRandom(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "in": input(data, len) };
    C_GenerateRandom(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) => |rv| { "session": session, "out": input(data, len) };
    C_GetFunctionStatus(session: CK_SESSION_HANDLE) => |rv| { "session": session };
    C_CancelFunction(session: CK_SESSION_HANDLE) => |rv| { "session": session };
    C_WaitForSlotEvent(a0: CK_FLAGS, a1: *mut CK_SLOT_ID, a2: *mut c_void) => |rv| {  };
}
