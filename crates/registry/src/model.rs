//! What the control plane keeps.

use std::collections::BTreeMap;

use kasbah_proto::policy;
use sqlx::{Row, any::AnyRow};
use time::OffsetDateTime;

use crate::error::{Error, Result};

/// Labels of anything.
pub type Labels = BTreeMap<String, String>;

/// A key access server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kas {
    /// UUID, lower case.
    pub id: String,
    /// As clients name it; case-sensitive.
    pub uri: String,
    /// Lower case.
    pub name: Option<String>,
    /// `policy.SourceType`.
    pub source_type: i32,
    /// The deprecated `policy.PublicKey`, as a protobuf message.
    pub public_key: Vec<u8>,
    /// Labels.
    pub labels: Labels,
    /// Microseconds since 1970.
    pub created_at: i64,
    /// Microseconds since 1970.
    pub updated_at: i64,
}

/// A provider configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// UUID, lower case.
    pub id: String,
    /// Lower case.
    pub name: String,
    /// Case-sensitive.
    pub manager: String,
    /// JSON text, byte for byte as it came.
    pub config_json: Vec<u8>,
    /// Labels.
    pub labels: Labels,
    /// The file that declares it, if one does.
    pub file: Option<String>,
    /// Revision of the registry at its last change.
    pub version: u64,
    /// Microseconds since 1970.
    pub created_at: i64,
    /// Microseconds since 1970.
    pub updated_at: i64,
}

/// A key of a key access server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// UUID of the record, lower case.
    pub id: String,
    /// UUID of its key access server.
    pub kas_id: String,
    /// URI of its key access server.
    pub kas_uri: String,
    /// Its name there.
    pub kid: String,
    /// `policy.Algorithm`.
    pub algorithm: i32,
    /// `policy.KeyStatus`.
    pub status: i32,
    /// `policy.KeyMode`.
    pub mode: i32,
    /// PEM text.
    pub public_pem: String,
    /// `private_key_ctx`, if there is one.
    pub private_key: Option<PrivateKey>,
    /// The configuration of its manager.
    pub provider: Option<Provider>,
    /// Whether key access objects without a kid may be tried against it.
    pub legacy: bool,
    /// Labels.
    pub labels: Labels,
    /// Microseconds since 1970.
    pub created_at: i64,
    /// Microseconds since 1970.
    pub updated_at: i64,
}

/// `private_key_ctx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateKey {
    /// Of the wrapping key, or of the remote key.
    pub key_id: String,
    /// base64 as it came; encrypted.
    pub wrapped_key: Option<String>,
}

/// How a key access server is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KasName {
    /// By UUID.
    Id(String),
    /// By name, in any case.
    Name(String),
    /// By URI, exactly.
    Uri(String),
}

/// How a key is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyName {
    /// By UUID.
    Id(String),
    /// By kid inside a key access server.
    InKas(KasName, String),
}

/// What to do with labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LabelChange {
    /// Nothing.
    #[default]
    Keep,
    /// They become these.
    Replace(Labels),
    /// These are added or overwritten.
    Extend(Labels),
}

impl LabelChange {
    pub(crate) fn apply(self, labels: &mut Labels) {
        match self {
            Self::Keep => {}
            Self::Replace(new) => *labels = new,
            Self::Extend(more) => labels.extend(more),
        }
    }
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    limit: i64,
    offset: i64,
}

/// A part of a list, and how long the list is.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// The part.
    pub items: Vec<T>,
    /// Length of the whole list.
    pub total: i64,
    /// Which part it is.
    pub page: Page,
}

/// Entries on a page when the caller does not say.
const DEFAULT_LIMIT: i32 = 1000;
/// Most entries on a page.
const MAX_LIMIT: i32 = 2500;

impl Page {
    /// The part that a caller asks for.
    ///
    /// # Errors
    /// When it is too large or begins before the list.
    pub fn new(limit: i32, offset: i32) -> Result<Self> {
        if limit > MAX_LIMIT {
            return Err(Error::invalid(
                "requested pagination limit must be less than or equal to configured limit",
            ));
        }
        if offset < 0 {
            return Err(Error::invalid("requested pagination offset must not be negative"));
        }
        let limit = if limit <= 0 { DEFAULT_LIMIT } else { limit };
        Ok(Self { limit: limit.into(), offset: offset.into() })
    }

    /// `LIMIT` and `OFFSET`, which are numbers of ours and no text of a caller's.
    pub(crate) fn sql(self) -> String {
        format!(" LIMIT {} OFFSET {}", self.limit, self.offset)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT.into(), offset: 0 }
    }
}

impl<T> Listed<T> {
    /// Where this part begins and the next one does; 0 when there is none.
    pub(crate) fn response(&self) -> policy::PageResponse {
        let next = self.page.offset + self.page.limit;
        let fit = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
        policy::PageResponse {
            current_offset: fit(self.page.offset),
            next_offset: if next < self.total { fit(next) } else { 0 },
            total: fit(self.total),
        }
    }
}

/// Columns of [`Kas`], after `SELECT`.
pub(crate) const KAS_COLUMNS: &str = "a.id AS a_id, a.uri AS a_uri, a.name AS a_name, \
     a.source_type AS a_source_type, a.public_key AS a_public_key, a.labels AS a_labels, \
     a.created_at AS a_created_at, a.updated_at AS a_updated_at";

/// Columns of [`Provider`], after `SELECT`.
pub(crate) const PROVIDER_COLUMNS: &str = "p.id AS p_id, p.name AS p_name, \
     p.manager AS p_manager, p.config_json AS p_config_json, p.labels AS p_labels, \
     p.file AS p_file, p.version AS p_version, p.created_at AS p_created_at, \
     p.updated_at AS p_updated_at";

/// Columns of [`Key`] without those of its provider, after `SELECT`.
pub(crate) const KEY_COLUMNS: &str = "k.id AS k_id, k.kas_id AS k_kas_id, a.uri AS k_kas_uri, \
     k.kid AS k_kid, k.algorithm AS k_algorithm, k.status AS k_status, k.mode AS k_mode, \
     k.public_pem AS k_public_pem, k.private_key_id AS k_private_key_id, \
     k.wrapped_key AS k_wrapped_key, k.legacy AS k_legacy, k.labels AS k_labels, \
     k.created_at AS k_created_at, k.updated_at AS k_updated_at";

impl Kas {
    pub(crate) fn from_row(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.try_get("a_id")?,
            uri: row.try_get("a_uri")?,
            name: row.try_get("a_name")?,
            source_type: small(row, "a_source_type")?,
            public_key: row.try_get("a_public_key")?,
            labels: labels(row, "a_labels")?,
            created_at: row.try_get("a_created_at")?,
            updated_at: row.try_get("a_updated_at")?,
        })
    }
}

impl Provider {
    pub(crate) fn from_row(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.try_get("p_id")?,
            name: row.try_get("p_name")?,
            manager: row.try_get("p_manager")?,
            config_json: row.try_get("p_config_json")?,
            labels: labels(row, "p_labels")?,
            file: row.try_get("p_file")?,
            version: row.try_get::<i64, _>("p_version")?.unsigned_abs(),
            created_at: row.try_get("p_created_at")?,
            updated_at: row.try_get("p_updated_at")?,
        })
    }
}

impl Key {
    pub(crate) fn from_row(row: &AnyRow) -> Result<Self> {
        let key_id: Option<String> = row.try_get("k_private_key_id")?;
        let wrapped_key = row.try_get("k_wrapped_key")?;
        let provider: Option<String> = row.try_get("p_id")?;
        Ok(Self {
            id: row.try_get("k_id")?,
            kas_id: row.try_get("k_kas_id")?,
            kas_uri: row.try_get("k_kas_uri")?,
            kid: row.try_get("k_kid")?,
            algorithm: small(row, "k_algorithm")?,
            status: small(row, "k_status")?,
            mode: small(row, "k_mode")?,
            public_pem: row.try_get("k_public_pem")?,
            private_key: key_id.map(|key_id| PrivateKey { key_id, wrapped_key }),
            provider: provider.map(|_| Provider::from_row(row)).transpose()?,
            legacy: row.try_get::<i64, _>("k_legacy")? != 0,
            labels: labels(row, "k_labels")?,
            created_at: row.try_get("k_created_at")?,
            updated_at: row.try_get("k_updated_at")?,
        })
    }
}

/// An enum number.
pub(crate) fn small(row: &AnyRow, column: &str) -> Result<i32> {
    i32::try_from(row.try_get::<i64, _>(column)?).map_err(Error::internal)
}

pub(crate) fn labels(row: &AnyRow, column: &str) -> Result<Labels> {
    serde_json::from_str(row.try_get(column)?).map_err(Error::internal)
}

pub(crate) fn labels_text(labels: &Labels) -> String {
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned())
}

/// Now, in microseconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// A new id.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
