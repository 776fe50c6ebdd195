//! Exists only so that cargo resolves the module; see `Cargo.toml`.
