//! Lines of the log and the chain through them.

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::checkpoint::Checkpoint;

/// Longest line, in bytes without its end: several times the largest request.
pub const MAX_LINE: usize = 32 * 1024 * 1024;

/// SHA-256 of something.
pub(crate) type Hash = [u8; 32];

/// How far a chain has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Sequence of the last line; 0 before the first.
    pub sequence: u64,
    /// SHA-256 of that line without its end.
    pub hash: [u8; 32],
}

impl Head {
    /// Before the first line of `node`. Its hash is that of a text with the name, so that the chain of
    /// one node is no chain of another.
    pub(crate) fn genesis(node: &str) -> Self {
        let text = format!("kasbah audit log v1: the chain of node {node} begins");
        Self { sequence: 0, hash: sha256(text.as_bytes()) }
    }

    /// The head once `line` has been added.
    pub(crate) fn after(&self, line: &[u8]) -> Self {
        Self { sequence: self.sequence.saturating_add(1), hash: sha256(line) }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
    hash
}

/// `audit.eventMetaData.kasbah.chain` of a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) node: String,
    pub(crate) sequence: u64,
    /// Lower-case hex.
    pub(crate) previous: String,
}

impl Link {
    fn next(node: &str, head: &Head) -> Self {
        Self {
            node: node.to_owned(),
            sequence: head.sequence.saturating_add(1),
            previous: hex::encode(head.hash),
        }
    }
}

/// What the chain needs to know of a line.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) link: Link,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) time: Option<String>,
}

impl Line {
    /// Reads a line; `None` when it is no line of such a log.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outer {
            audit: Audit,
            time: Option<String>,
        }
        #[derive(Deserialize)]
        struct Audit {
            #[serde(rename = "eventMetaData")]
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            kasbah: Kasbah,
        }
        #[derive(Deserialize)]
        struct Kasbah {
            chain: Link,
            checkpoint: Option<Checkpoint>,
        }
        let Outer { audit, time } = serde_json::from_slice(bytes).ok()?;
        let Kasbah { chain: link, checkpoint } = audit.metadata.kasbah;
        Some(Self { link, checkpoint, time })
    }
}

/// Whether the log can take `event`: an object with room for `audit.eventMetaData.kasbah`, and not
/// one that claims to be a checkpoint.
pub(crate) fn is_event(event: &Value) -> bool {
    let mut value = event;
    if !value.is_object() {
        return false;
    }
    for key in PATH {
        match value.get(key) {
            None | Some(Value::Null) => return true,
            Some(inner @ Value::Object(_)) => value = inner,
            Some(_) => return false,
        }
    }
    value.get("checkpoint").is_none()
}

/// The line of `event` after `head`, without its end; `None` when it is no event.
pub(crate) fn stamp(mut event: Value, node: &str, head: &Head) -> Option<Vec<u8>> {
    let mut map = event.as_object_mut()?;
    for key in PATH {
        let inner = map.entry(key).or_insert(Value::Null);
        if inner.is_null() {
            *inner = Value::Object(Map::new());
        }
        map = inner.as_object_mut()?;
    }
    map.insert("chain".to_owned(), serde_json::to_value(Link::next(node, head)).ok()?);
    serde_json::to_vec(&event).ok()
}

/// A line of the log's own after `head`, without its end, in the envelope of every other event. `what`
/// is put beside the chain under the key `name`. The bytes follow from the arguments alone.
pub(crate) fn own(
    message: &str,
    node: &str,
    head: &Head,
    time: &str,
    (name, what): (&str, &impl Serialize),
) -> Vec<u8> {
    let (node, time, link) = (json(&node), json(&time), json(&Link::next(node, head)));
    let (message, name, what) = (json(&message), json(&name), json(what));
    format!(
        "{{\"time\":{time},\"level\":\"AUDIT\",\"msg\":{message},\"namespace\":\"audit\",\"audit\":{{\
         \"object\":{{\"type\":\"audit_log\",\"id\":{node},\"name\":\"\",\"attributes\":{{\
         \"assertions\":[],\"attrs\":[],\"permissions\":[]}}}},\
         \"action\":{{\"type\":\"create\",\"result\":\"success\"}},\
         \"actor\":{{\"id\":\"\",\"attributes\":[]}},\
         \"eventMetaData\":{{\"kasbah\":{{\"chain\":{link},{name}:{what}}}}},\
         \"clientInfo\":{{\"userAgent\":\"\",\"platform\":\"audit\",\"requestIP\":\"\"}},\
         \"original\":null,\"updated\":null,\
         \"requestID\":\"00000000-0000-0000-0000-000000000000\",\"timestamp\":{time}}}}}"
    )
    .into_bytes()
}

/// Now, in whole seconds of UTC, RFC 3339.
pub(crate) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// Strings, numbers and structs of them cannot fail to become JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Where our additions are in an event.
const PATH: [&str; 3] = ["audit", "eventMetaData", "kasbah"];
