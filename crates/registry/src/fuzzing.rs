//! The parsers of requests and declared providers, for fuzzers. None of them may panic or hang.
//!
//! What they answer passed every rule that needs no database.

use kasbah_proto::policy::{
    kasregistry::{CreateKeyRequest, ListKeysRequest, RotateKeyRequest},
    keymanagement::CreateProviderConfigRequest,
};

use crate::{
    KeyName, KeyQuery, NewKey, NewProvider, files,
    services::{key_management, requests},
};

/// A key to register.
pub fn create_key(request: CreateKeyRequest) -> Option<NewKey> {
    requests::check_create_key(&request).ok()?;
    requests::new_key(request).ok()
}

/// A key to rotate out, and the one to take over.
pub fn rotate_key(request: RotateKeyRequest) -> Option<(KeyName, NewKey)> {
    let (old, new) = requests::check_rotate_key(request).ok()?;
    Some((old, requests::rotated_key(new).ok()?))
}

/// Which keys to list.
pub fn list_keys(request: ListKeysRequest) -> Option<KeyQuery> {
    requests::key_query(request).ok().map(|(query, ..)| query)
}

/// A provider configuration to make.
pub fn create_provider_config(request: CreateProviderConfigRequest) -> Option<NewProvider> {
    key_management::new_provider(request).ok()
}

/// The text of a file that declares provider configurations.
pub fn provider_file(text: &str) -> Option<Vec<NewProvider>> {
    let declared = files::read_text(text).ok()?;
    Some(declared.into_iter().map(|(_, provider)| provider).collect())
}
