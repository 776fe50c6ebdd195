//! Requests of the registry service: what they must be, and what they ask for.
#![expect(deprecated, reason = "old clients send these fields")]

use kasbah_proto::policy::{
    Algorithm, KeyMode, PrivateKeyCtx, PublicKeyCtx, SortDirection,
    kasregistry::{
        CreateKeyRequest, GetKeyAccessServerRequest, KasKeyIdentifier, ListKeysRequest,
        RotateKeyRequest, SortKasKeysType, get_key_access_server_request as get_kas,
        kas_key_identifier, list_keys_request, rotate_key_request,
    },
};
use tonic::Status;

use super::page;
use crate::{
    KasName, KeyName, KeyQuery, NewKey, Order, Page, PrivateKey,
    convert::{key_name, labels},
    error::{Error, Result},
    keys::KEY_ORDERS,
    material,
    validate::Check,
};

const RETRIEVAL: &str = "resource retrieval failed";
const LISTING: &str = "resource list retrieval failed";

pub(super) fn unnamed() -> Status {
    Error::invalid("could not match identifier to known type").status(RETRIEVAL)
}

pub(super) fn kas_named(request: GetKeyAccessServerRequest) -> Result<KasName, Status> {
    use get_kas::Identifier;
    let mut check = Check::default();
    check.rule(
        "",
        "exclusive_fields",
        request.id.is_empty() || request.identifier.is_none(),
        "Either use deprecated 'id' field or one of 'kas_id' or 'uri', but not both",
    );
    check.rule(
        "",
        "required_fields",
        !request.id.is_empty() || request.identifier.is_some(),
        "Either id or one of kas_id or uri must be set",
    );
    check.uuid_if_set("id", &request.id);
    let name = match request.identifier {
        Some(Identifier::KasId(id)) => kas_id(&mut check, "kas_id", id),
        Some(Identifier::Name(name)) => kas_name(&mut check, "name", name),
        Some(Identifier::Uri(uri)) => kas_uri(&mut check, "uri", uri),
        None => KasName::Id(request.id),
    };
    check.done()?;
    Ok(name)
}

fn kas_id(check: &mut Check, path: &str, id: String) -> KasName {
    check.uuid(path, &id);
    KasName::Id(id)
}

fn kas_name(check: &mut Check, path: &str, name: String) -> KasName {
    check.text(path, &name);
    KasName::Name(name)
}

fn kas_uri(check: &mut Check, path: &str, uri: String) -> KasName {
    check.at_least_one(path, &uri);
    check.uri(path, &uri);
    KasName::Uri(uri)
}

pub(super) fn row_id(check: &mut Check, id: String) -> KeyName {
    check.uuid("id", &id);
    KeyName::Id(id)
}

pub(super) fn identified(check: &mut Check, path: &str, key: KasKeyIdentifier) -> Option<KeyName> {
    use kas_key_identifier::Identifier;
    check.one_of(&format!("{path}.identifier"), key.identifier.is_some());
    match &key.identifier {
        Some(Identifier::KasId(id)) => check.uuid(&format!("{path}.kas_id"), id),
        Some(Identifier::Name(name)) => check.text(&format!("{path}.name"), name),
        Some(Identifier::Uri(uri)) => {
            check.at_least_one(&format!("{path}.uri"), uri);
            check.uri(&format!("{path}.uri"), uri);
        }
        None => {}
    }
    check.text(&format!("{path}.kid"), &key.kid);
    key_name(key)
}

fn check_algorithm(check: &mut Check, path: &str, number: i32) {
    let holds = number != 0 && Algorithm::try_from(number).is_ok();
    let text = "The key_algorithm must be one of the defined values.";
    check.rule(path, "key_algorithm_defined", holds, text);
}

pub(crate) fn key_query(request: ListKeysRequest) -> Result<(KeyQuery, Order, Page), Status> {
    use list_keys_request::KasFilter;
    let mut check = Check::default();
    if request.key_algorithm != 0 {
        check_algorithm(&mut check, "key_algorithm", request.key_algorithm);
    }
    let kas = request.kas_filter.map(|filter| match filter {
        KasFilter::KasId(id) => kas_id(&mut check, "kas_id", id),
        KasFilter::KasName(name) => kas_name(&mut check, "kas_name", name),
        KasFilter::KasUri(uri) => kas_uri(&mut check, "kas_uri", uri),
    });
    let sort = request.sort.first().copied().unwrap_or_default();
    check.at_most_one_item("sort", request.sort.len());
    for sort in &request.sort {
        check.defined("sort.field", SortKasKeysType::try_from(sort.field).is_ok());
        check.defined("sort.direction", SortDirection::try_from(sort.direction).is_ok());
    }
    check.search(request.search.as_ref());
    check.done()?;
    let page = page(request.pagination).map_err(|error| error.status(LISTING))?;
    let query = KeyQuery {
        kas,
        algorithm: request.key_algorithm,
        legacy: request.legacy,
        search: request.search.map(|search| search.term).unwrap_or_default(),
    };
    Ok((query, Order::new(&KEY_ORDERS, sort.field, sort.direction), page))
}

pub(crate) fn check_create_key(request: &CreateKeyRequest) -> Result<(), Status> {
    let mut check = Check::default();
    check.uuid("kas_id", &request.kas_id);
    check.kid("key_id", &request.key_id);
    check_algorithm(&mut check, "key_algorithm", request.key_algorithm);
    check.rule(
        "key_mode",
        "key_mode_defined",
        (1..=4).contains(&request.key_mode),
        "The key_mode must be one of the defined values (1-4).",
    );
    check_material(
        &mut check,
        "",
        request.key_mode,
        request.public_key_ctx.as_ref(),
        request.private_key_ctx.as_ref(),
        &request.provider_config_id,
    );
    if let Some(metadata) = &request.metadata {
        check.labels(&metadata.labels);
    }
    check.done()
}

/// The key to rotate out, and the one to take over.
pub(crate) fn check_rotate_key(
    request: RotateKeyRequest,
) -> Result<(KeyName, rotate_key_request::NewKey), Status> {
    use rotate_key_request::ActiveKey;
    let mut check = Check::default();
    check.one_of("active_key", request.active_key.is_some());
    let old = match request.active_key {
        Some(ActiveKey::Id(id)) => Some(row_id(&mut check, id)),
        Some(ActiveKey::Key(key)) => identified(&mut check, "key", key),
        None => None,
    };
    let new = request.new_key.unwrap_or_default();
    check_new_key(&mut check, &new);
    check.done()?;
    Ok((old.ok_or_else(unnamed)?, new))
}

fn check_new_key(check: &mut Check, new: &rotate_key_request::NewKey) {
    check.kid("new_key.key_id", &new.key_id);
    check_algorithm(check, "new_key.algorithm", new.algorithm);
    check.defined("new_key.key_mode", KeyMode::try_from(new.key_mode).is_ok());
    check.rule(
        "new_key.key_mode",
        "new_key_mode_defined",
        (1..=4).contains(&new.key_mode),
        "The new key_mode must be one of the defined values (1-4).",
    );
    check_material(
        check,
        "new_key.",
        new.key_mode,
        new.public_key_ctx.as_ref(),
        new.private_key_ctx.as_ref(),
        &new.provider_config_id,
    );
    if let Some(metadata) = &new.metadata {
        check.labels(&metadata.labels);
    }
}

/// The parts of a key, and how they go with its mode.
fn check_material(
    check: &mut Check,
    prefix: &str,
    mode: i32,
    public: Option<&PublicKeyCtx>,
    private: Option<&PrivateKeyCtx>,
    provider_id: &str,
) {
    let mode = KeyMode::try_from(mode).unwrap_or_default();
    check.required(&format!("{prefix}public_key_ctx"), public.is_some());
    if let Some(public) = public {
        check.at_least_one(&format!("{prefix}public_key_ctx.pem"), &public.pem);
    }
    if let Some(private) = private {
        check.text(&format!("{prefix}private_key_ctx.key_id"), &private.key_id);
        check.at_most(&format!("{prefix}private_key_ctx.key_id"), &private.key_id, 2048);
    }
    check.uuid_if_set(&format!("{prefix}provider_config_id"), provider_id);
    check_mode(check, prefix, mode, private, provider_id);
}

/// Which of a wrapped key, a provider and a reference to a private key a mode has.
fn check_mode(
    check: &mut Check,
    prefix: &str,
    mode: KeyMode,
    private: Option<&PrivateKeyCtx>,
    provider_id: &str,
) {
    let has_wrapped = private.is_some_and(|private| !private.wrapped_key.is_empty());
    let wrapped_fits = match mode {
        KeyMode::ConfigRootKey | KeyMode::ProviderRootKey => has_wrapped,
        KeyMode::Remote | KeyMode::PublicKeyOnly => !has_wrapped,
        KeyMode::Unspecified => false,
    };
    let provider_fits = match mode {
        KeyMode::ConfigRootKey | KeyMode::PublicKeyOnly => provider_id.is_empty(),
        KeyMode::ProviderRootKey | KeyMode::Remote => !provider_id.is_empty(),
        KeyMode::Unspecified => false,
    };
    let (the, provider) = if prefix.is_empty() {
        ("The", "Provider")
    } else {
        ("For the new key, the", "For the new key, provider")
    };
    check.rule(
        "",
        "private_key_ctx_optionally_required",
        wrapped_fits,
        &format!(
            "{the} wrapped_key is required if key_mode is KEY_MODE_CONFIG_ROOT_KEY or \
             KEY_MODE_PROVIDER_ROOT_KEY. The wrapped_key must be empty if key_mode is \
             KEY_MODE_REMOTE or KEY_MODE_PUBLIC_KEY_ONLY."
        ),
    );
    check.rule(
        "",
        "provider_config_id_optionally_required",
        provider_fits,
        &format!(
            "{provider} config id is required if key_mode is KEY_MODE_PROVIDER_ROOT_KEY or \
             KEY_MODE_REMOTE. It must be empty for KEY_MODE_CONFIG_ROOT_KEY and \
             KEY_MODE_PUBLIC_KEY_ONLY."
        ),
    );
    check.rule(
        "",
        "private_key_ctx_for_public_key_only",
        !(mode == KeyMode::PublicKeyOnly && private.is_some()),
        "private_key_ctx must not be set if key_mode is KEY_MODE_PUBLIC_KEY_ONLY.",
    );
}

pub(crate) fn new_key(request: CreateKeyRequest) -> Result<NewKey> {
    Ok(NewKey {
        kid: request.key_id,
        algorithm: request.key_algorithm,
        mode: request.key_mode,
        public_pem: checked_pem(request.public_key_ctx, request.key_algorithm)?,
        private_key: checked_private(request.private_key_ctx)?,
        provider_id: Some(request.provider_config_id).filter(|id| !id.is_empty()),
        legacy: request.legacy,
        labels: labels(request.metadata),
    })
}

pub(crate) fn rotated_key(new: rotate_key_request::NewKey) -> Result<NewKey> {
    Ok(NewKey {
        kid: new.key_id,
        algorithm: new.algorithm,
        mode: new.key_mode,
        public_pem: checked_pem(new.public_key_ctx, new.algorithm)?,
        private_key: checked_private(new.private_key_ctx)?,
        provider_id: Some(new.provider_config_id).filter(|id| !id.is_empty()),
        legacy: false,
        labels: labels(new.metadata),
    })
}

fn checked_pem(context: Option<PublicKeyCtx>, algorithm: i32) -> Result<String> {
    material::public_pem(&context.unwrap_or_default().pem, algorithm)
}

fn checked_private(context: Option<PrivateKeyCtx>) -> Result<Option<PrivateKey>> {
    let Some(context) = context else { return Ok(None) };
    let wrapped_key = Some(context.wrapped_key).filter(|wrapped| !wrapped.is_empty());
    if let Some(wrapped) = &wrapped_key {
        material::check_wrapped(wrapped)?;
    }
    Ok(Some(PrivateKey { key_id: context.key_id, wrapped_key }))
}
