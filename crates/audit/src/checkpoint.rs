//! Checkpoints: signed statements of how far a chain has come.

use serde::{Deserialize, Serialize};

use crate::{
    key::{PublicKey, SigningKey},
    line::{self, Head},
};

/// A signed statement that the chain of a node had come this far.
///
/// It stands in the log, on the line right after the one that it speaks of, and in a file of its own.
/// The whole line of the log follows from it, so no byte of that line can be changed unseen even where
/// no other line comes after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The node.
    pub node: String,
    /// Sequence of the last line that it vouches for; its own line is the next.
    pub sequence: u64,
    /// SHA-256 of that line, lower-case hex.
    pub head: String,
    /// When it was made: RFC 3339, UTC.
    pub time: String,
    /// Which key signed it, see [`PublicKey::id`].
    pub key: String,
    /// Ed25519 over all of the above, lower-case hex.
    pub signature: String,
}

impl Checkpoint {
    pub(crate) fn sign(key: &SigningKey, node: &str, head: &Head, time: String) -> Self {
        let mut checkpoint = Self {
            node: node.to_owned(),
            sequence: head.sequence,
            head: hex::encode(head.hash),
            time,
            key: key.public_key().id().to_owned(),
            signature: String::new(),
        };
        checkpoint.signature = key.sign(&checkpoint.message());
        checkpoint
    }

    /// Whether one of `keys` has signed it.
    pub fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        let signed = |key: &PublicKey| {
            key.id() == self.key && key.has_signed(&self.message(), &self.signature)
        };
        keys.iter().any(signed)
    }

    /// What is signed: a label, then each field behind its length (8 bytes, big-endian), the sequence as
    /// 8 bytes, big-endian.
    fn message(&self) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        let mut message = b"kasbah audit checkpoint v1\0".to_vec();
        for field in [
            self.node.as_bytes(),
            &sequence,
            self.head.as_bytes(),
            self.time.as_bytes(),
            self.key.as_bytes(),
        ] {
            message.extend((field.len() as u64).to_be_bytes());
            message.extend(field);
        }
        message
    }

    /// The head that it speaks of; `None` when it makes no sense.
    pub(crate) fn spoken_of(&self) -> Option<Head> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.head, &mut hash).ok()?;
        Some(Head { sequence: self.sequence, hash })
    }

    /// Its line in the log, without its end; `None` when it makes no sense.
    pub(crate) fn line(&self) -> Option<Vec<u8>> {
        let head = self.spoken_of()?;
        Some(line::own("audit checkpoint", &self.node, &head, &self.time, ("checkpoint", self)))
    }

    /// The head of a chain whose last line is this checkpoint; `None` when it makes no sense.
    pub(crate) fn head_after(&self) -> Option<Head> {
        Some(self.spoken_of()?.after(&self.line()?))
    }
}
