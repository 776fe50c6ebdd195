//! The key manager opentdf.io/basic: private keys in the database, wrapped by a root key.
