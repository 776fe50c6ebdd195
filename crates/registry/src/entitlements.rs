//! The document of entitlements that all nodes share. What is in it is not known here.

use std::fmt;

use sqlx::Row;

use crate::{
    Registry,
    error::{Error, Result},
};

/// Longest document, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// Longest text about what is wrong with a document, in bytes: it goes into a header.
const MAX_PROBLEMS: usize = 2048;

/// Says whether a document of entitlements can be one.
pub trait DocumentCheck: fmt::Debug + Send + Sync + 'static {
    /// Checks a document; the answer is what its author should know all the same.
    ///
    /// # Errors
    /// What is wrong, for whoever wrote it.
    fn check(&self, document: &str) -> Result<Vec<String>, String>;
}

impl Registry {
    /// Keeps a document of entitlements, of 1 byte to 16 MiB, in place of the one before; its
    /// revision, which is the one of the registry. It is not looked at; see [`DocumentCheck`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that cannot be kept; [`Error::Precondition`] when `expected`
    /// is not the revision of the document before, or 0 for none.
    pub async fn set_entitlements(&self, document: &str, expected: Option<u64>) -> Result<u64> {
        check_size(document)?;
        let mut write = self.db.write().await?;
        let current: Option<i64> = sqlx::query_scalar("SELECT revision FROM entitlements")
            .fetch_optional(&mut *write.tx)
            .await?;
        let current = current.unwrap_or_default().unsigned_abs();
        if let Some(expected) = expected.filter(|expected| *expected != current) {
            return Err(Error::precondition(format!(
                "the entitlements are at revision {current} and not {expected}; somebody else has \
                 changed them"
            )));
        }
        sqlx::query(
            "INSERT INTO entitlements (singleton, document, revision) VALUES (1, $1, $2) \
             ON CONFLICT (singleton) DO UPDATE SET document = excluded.document, \
             revision = excluded.revision",
        )
        .bind(document.to_owned())
        .bind(write.revision)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await
    }

    /// The document of entitlements and its revision, if one is set.
    ///
    /// # Errors
    /// As any read.
    pub async fn entitlements(&self) -> Result<Option<(String, u64)>> {
        let row = sqlx::query("SELECT document, revision FROM entitlements")
            .fetch_optional(self.db.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let revision: i64 = row.try_get("revision")?;
        Ok(Some((row.try_get("document")?, revision.unsigned_abs())))
    }
}

/// # Errors
/// [`Error::Invalid`] when a database could not keep it.
pub(crate) fn check_size(document: &str) -> Result<()> {
    if document.is_empty() {
        return Err(Error::invalid("the document is empty"));
    }
    if document.len() > MAX_DOCUMENT {
        return Err(Error::invalid("the document is longer than 16 MiB"));
    }
    if document.contains('\0') {
        return Err(Error::invalid("the document contains a NUL character"));
    }
    Ok(())
}

/// What is wrong with a document, as far as an answer has room for it.
pub(crate) fn refusal(mut problems: String) -> Error {
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(problems.floor_char_boundary(MAX_PROBLEMS));
        problems.push_str(" … and more");
    }
    Error::invalid(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_cut_between_characters() {
        let whole = "ä".repeat(MAX_PROBLEMS / 2);
        assert_eq!(refusal(whole.clone()).to_string(), whole);
        let cut = refusal(format!("x{whole}")).to_string();
        assert_eq!(cut, format!("x{} … and more", "ä".repeat(MAX_PROBLEMS / 2 - 1)));
    }
}
