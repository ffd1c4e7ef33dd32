//! The formats of KV caches, a row of a table each. To add one: its encoding, its row here, and what loads and appends rows of
//! its encoding (`kernels-gen/src/cache.rs` and the files that match on [`KvEncoding`], `microkernels/src/attention.rs`).

use crate::abi::KvEncoding;
use crate::quant::{self, Format};

/// A format of KV caches.
#[derive(Debug)]
pub struct KvFormat {
    /// Its name, and the type of the elements.
    pub format: Format,
    /// How rows are encoded.
    pub encoding: KvEncoding,
}

/// Every format, the usual one first.
pub static ALL: [KvFormat; 2] = [
    KvFormat { format: quant::F16, encoding: KvEncoding::Halves },
    KvFormat { format: quant::Q8_0, encoding: KvEncoding::Codes },
];

impl KvFormat {
    /// The format of caches of these elements, if they are one's.
    pub fn of(format: Format) -> Option<&'static KvFormat> {
        ALL.iter().find(|kv| kv.format == format)
    }

    /// The format of this name.
    pub fn by_name(name: &str) -> Option<&'static KvFormat> {
        ALL.iter().find(|kv| kv.format.name == name)
    }

    /// All names, for people, each after `before`.
    pub fn names(before: &str) -> String {
        ALL.iter().map(|kv| format!("{before}{}", kv.format)).collect::<Vec<_>>().join(" or ")
    }
}
