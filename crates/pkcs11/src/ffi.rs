//! What the `cryptoki` crate has no type for: `CKA_UNWRAP_TEMPLATE`, an attribute whose value is an
//! array of attributes, and the mechanism `CKM_AES_KEY_WRAP_KWP`.
//!
//! The crate passes untyped bytes of an attribute through. The bytes are a `CK_ATTRIBUTE` array
//! (PKCS#11 3.1, section 4.10) whose value pointers aim at statics, so that they stay valid however
//! long the attribute lives. A module only reads through them: the array goes in with
//! `C_GenerateKey`, `C_GenerateKeyPair`, `C_CreateObject` and `C_UnwrapKey` alone. It reads them as
//! a C array, for which the system's allocator aligns even a vector of bytes well enough.

use std::{
    mem::{offset_of, size_of, transmute},
    ptr::from_ref,
};

use cryptoki::{
    mechanism::{Mechanism, MechanismType, vendor_defined::VendorDefinedMechanism},
    object::{Attribute, AttributeType},
};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_MECHANISM_TYPE, CK_TRUE, CK_ULONG,
    CKA_UNWRAP_TEMPLATE, CKM_AES_KEY_WRAP_KWP,
};

static FALSE: CK_BBOOL = CK_FALSE;
static TRUE: CK_BBOOL = CK_TRUE;

/// What `CKA_UNWRAP_TEMPLATE` demands an attribute to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Demand {
    Flag(bool),
    /// A number, or an array of one number.
    Number(&'static CK_ULONG),
}

/// `CKA_UNWRAP_TEMPLATE` demanding this of everything that the key unwraps.
pub(crate) fn unwrap_template(
    lines: impl IntoIterator<Item = (CK_ATTRIBUTE_TYPE, Demand)>,
) -> Attribute {
    let bytes = lines.into_iter().flat_map(|(kind, demand)| attribute(kind, demand)).collect();
    Attribute::VendorDefined((AttributeType::VendorDefined(CKA_UNWRAP_TEMPLATE), bytes))
}

/// One `CK_ATTRIBUTE` as it lies in memory.
fn attribute(kind: CK_ATTRIBUTE_TYPE, demand: Demand) -> [u8; size_of::<CK_ATTRIBUTE>()] {
    let (address, length) = match demand {
        Demand::Flag(value) => {
            let target: *const CK_BBOOL = if value { &raw const TRUE } else { &raw const FALSE };
            (target.expose_provenance(), FLAG_LEN)
        }
        Demand::Number(number) => (from_ref(number).expose_provenance(), NUMBER_LEN),
    };
    let mut bytes = [0; size_of::<CK_ATTRIBUTE>()];
    let mut put = |offset: usize, field: &[u8]| {
        bytes[offset..offset + field.len()].copy_from_slice(field);
    };
    put(offset_of!(CK_ATTRIBUTE, type_), &kind.to_ne_bytes());
    put(offset_of!(CK_ATTRIBUTE, pValue), &address.to_ne_bytes());
    put(offset_of!(CK_ATTRIBUTE, ulValueLen), &length.to_ne_bytes());
    bytes
}

const FLAG_LEN: CK_ULONG = 1; // size_of::<CK_BBOOL>()
const NUMBER_LEN: CK_ULONG = size_of::<CK_ULONG>() as CK_ULONG;

/// `CKM_AES_KEY_WRAP_KWP`: RFC 5649, as PKCS#11 3.1 numbers it.
pub(crate) fn kwp() -> Mechanism<'static> {
    Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(kwp_type(), None))
}

/// Its number. The crate makes a [`MechanismType`] of numbers it knows and of vendors' numbers only.
#[expect(unsafe_code, reason = "the crate has no constructor for this number")]
pub(crate) fn kwp_type() -> MechanismType {
    // SAFETY: `MechanismType` is `repr(transparent)` over `CK_MECHANISM_TYPE`, an integer, and
    // holds any number that a vendor may use; no code relies on it being a known one.
    unsafe { transmute::<CK_MECHANISM_TYPE, MechanismType>(CKM_AES_KEY_WRAP_KWP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_standards() {
        assert_eq!(CK_MECHANISM_TYPE::from(kwp_type()), 0x210b);
        assert_eq!(kwp().mechanism_type(), kwp_type());
    }
}
