//! `CKA_UNWRAP_TEMPLATE`, an attribute whose value is an array of attributes.
//!
//! The `cryptoki` crate has no type for it, but passes untyped bytes through. The bytes are a
//! `CK_ATTRIBUTE` array (PKCS#11 3.1, section 4.10) whose value pointers aim at statics, so that
//! they stay valid however long the attribute lives. A module only reads through them: the array
//! goes in with `C_GenerateKeyPair` and `C_CreateObject` alone. It reads them as a C array, for
//! which the system's allocator aligns even a vector of bytes well enough.

use std::mem::{offset_of, size_of};

use cryptoki::object::{Attribute, AttributeType};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_TRUE, CK_ULONG, CKA_UNWRAP_TEMPLATE,
};

static FALSE: CK_BBOOL = CK_FALSE;
static TRUE: CK_BBOOL = CK_TRUE;

/// `CKA_UNWRAP_TEMPLATE` demanding these booleans of everything that the key unwraps.
pub(crate) fn unwrap_template(
    lines: impl IntoIterator<Item = (CK_ATTRIBUTE_TYPE, bool)>,
) -> Attribute {
    let bytes = lines.into_iter().flat_map(|(kind, value)| attribute(kind, value)).collect();
    Attribute::VendorDefined((AttributeType::VendorDefined(CKA_UNWRAP_TEMPLATE), bytes))
}

/// One boolean `CK_ATTRIBUTE` as it lies in memory.
fn attribute(kind: CK_ATTRIBUTE_TYPE, value: bool) -> [u8; size_of::<CK_ATTRIBUTE>()] {
    let target: *const CK_BBOOL = if value { &raw const TRUE } else { &raw const FALSE };
    let mut bytes = [0; size_of::<CK_ATTRIBUTE>()];
    let mut put = |offset: usize, field: &[u8]| {
        bytes[offset..offset + field.len()].copy_from_slice(field);
    };
    put(offset_of!(CK_ATTRIBUTE, type_), &kind.to_ne_bytes());
    put(offset_of!(CK_ATTRIBUTE, pValue), &target.expose_provenance().to_ne_bytes());
    put(offset_of!(CK_ATTRIBUTE, ulValueLen), &VALUE_LEN.to_ne_bytes());
    bytes
}

const VALUE_LEN: CK_ULONG = 1; // size_of::<CK_BBOOL>()
