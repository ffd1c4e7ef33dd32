//! What an artifact remembers of the model file that it was compiled for. The runtime computes it.

use serde::{Deserialize, Serialize};

/// The contents of a model file in brief, cheap to take of any size: equal files have equal identities, wherever they
/// lie and whatever they are called, and a file that was changed or mixed up has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// One for each shard, in order.
    pub shards: Vec<ShardIdentity>,
}

/// The identity of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardIdentity {
    /// File length, bytes.
    pub length: u64,
    /// SHA-256, in hexadecimal, of everything before the tensor data: metadata and tensor table.
    pub header: String,
    /// SHA-256, in hexadecimal, of [`ShardIdentity::SAMPLES`] pieces of the tensor data.
    pub samples: String,
}

impl ShardIdentity {
    /// Pieces of tensor data that are hashed, evenly spread, the first at the start and the last at the end.
    pub const SAMPLES: u64 = 64;
    /// Bytes of a piece. Data no longer than all pieces together is hashed whole.
    pub const SAMPLE_BYTES: u64 = 4096;
}

impl ModelIdentity {
    /// The first difference in words, from this (expected) to `found`; `None` if they are equal.
    pub fn difference(&self, found: &ModelIdentity) -> Option<String> {
        if self.shards.len() != found.shards.len() {
            return Some(format!("it has {} shards instead of {}", found.shards.len(), self.shards.len()));
        }
        let shard = self.shards.iter().zip(&found.shards).position(|(a, b)| a != b)?;
        let (a, b) = (&self.shards[shard], &found.shards[shard]);
        let of = if self.shards.len() > 1 { format!(" of shard {}", shard + 1) } else { String::new() };
        Some(if a.length != b.length {
            format!("the length{of} is {} bytes instead of {}", b.length, a.length)
        } else if a.header != b.header {
            format!("the metadata or the tensor table{of} differ")
        } else {
            format!("the tensor data{of} differ")
        })
    }
}
