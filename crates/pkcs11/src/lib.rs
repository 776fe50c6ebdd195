//! The key manager opentdf.io/hsm: private keys in a PKCS#11 token, data keys too where it can.
