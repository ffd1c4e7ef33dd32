//! GGUF: a model file's metadata and tensor table, over the bytes of a mapped file.
//!
//! [`parse`] reads versions 2 and 3, little-endian. Invariant: every count, length and offset is checked before it is
//! used, so no input panics; vectors grow with what was read, so none allocates more than a small multiple of the header,
//! which is bounded; and the data of every tensor whose type GGML defines lies inside the file. [`Writer`] makes files. Next hop: `front` builds a graph from the metadata;
//! the runtime maps files and merges shards. Source: docs/gguf.md of github.com/ggml-org/ggml.

mod identity;
mod metadata;
mod read;
mod strings;
#[cfg(test)]
mod tests;
mod write;

pub use identity::{ModelIdentity, ShardIdentity};
pub use metadata::{Array, Metadata, Value};
pub use strings::Strings;
pub use write::{NewTensor, Writer};

use crate::quant::{Format, GgmlType, ggml_type};
use crate::quote::quoted;
use crate::{Error, Result};
use read::Reader;
use std::collections::HashMap;

/// The first four bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data where `general.alignment` does not say otherwise.
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// Largest alignment: that of huge pages.
const MAX_ALIGNMENT: u64 = 2 << 20;
/// Most bytes of a header. Vocabularies take some 30 MB; a file may be sparse, so that its length bounds nothing.
const MAX_HEADER: usize = 256 << 20;
/// Most tensors, and most metadata entries; models of many experts have some 50,000 tensors.
const MAX_TENSORS: usize = 1 << 18;
const MAX_ENTRIES: usize = 1 << 16;
/// Dimensions that a tensor may have.
pub const MAX_DIMS: usize = 4;

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Dimensions as stored, fastest first; 1 to 4 of them, none zero.
    pub dims: Vec<u64>,
    /// GGML type id.
    pub type_id: u32,
    /// Byte offset of the data from the start of the file.
    pub offset: u64,
    /// Bytes of the data; 0 if GGML does not define the type.
    pub bytes: u64,
}

impl TensorInfo {
    /// Dimensions, slowest first.
    pub fn shape(&self) -> Vec<usize> {
        // Each dimension is at most the number of elements, which `parse` bounds by the file for known types.
        self.dims.iter().rev().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The format; [`Error::Unsupported`] if rigc does not compute with this type.
    pub fn format(&self) -> Result<Format> {
        Format::by_id(self.type_id).ok_or_else(|| {
            let supported: Vec<_> = crate::quant::ALL.iter().map(|f| f.name).collect();
            Error::unsupported(
                format!("tensor {} of type {}", quoted(&self.name), self.type_name()),
                format!("use a file quantised to some of {}", supported.join(", ")),
            )
        })
    }

    /// GGML's name of the type, or its number.
    pub fn type_name(&self) -> String {
        ggml_type(self.type_id).map_or_else(|| format!("{} (unknown)", self.type_id), |t| t.name.into())
    }
}

/// Everything in a file before the tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3; they differ only in that 3 may be big-endian.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensor table, in file order; names are unique.
    pub tensors: Vec<TensorInfo>,
    /// Where tensor data starts, bytes from the start of the file; at most the file's length.
    pub data_offset: u64,
    /// Alignment of tensor data, bytes; a power of two.
    pub alignment: u64,
}

impl Header {
    /// The tensor of this name; takes time in the number of tensors.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// Reads the header of a file given whole.
pub fn parse(bytes: &[u8]) -> Result<Header> {
    let mut r = Reader::new(&bytes[..bytes.len().min(MAX_HEADER)]);
    let version = signature(&mut r)?;
    // Each tensor takes at least a name length, a dimension count, one dimension, a type and an offset; each entry a key
    // length, a type and one byte.
    let tensor_count = r.count(32, MAX_TENSORS, "tensors")?;
    let entry_count = r.count(13, MAX_ENTRIES, "metadata entries")?;
    let metadata = Metadata::read(&mut r, entry_count)?;
    let alignment = u64::from(metadata.opt_u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT));
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(Error::malformed(format!(
            "general.alignment is {alignment}, not a power of two up to {MAX_ALIGNMENT}"
        )));
    }

    let mut tensors = Vec::new();
    let mut seen = HashMap::new();
    for i in 0..tensor_count {
        let at = r.at();
        let tensor = tensor(&mut r, i, alignment)?;
        if let Some(first) = seen.insert(tensor.name.clone(), i) {
            return r.error(at, format!("tensor {} occurs twice, as {first} and {i}", quoted(&tensor.name)));
        }
        tensors.push(tensor);
    }

    let length = bytes.len() as u64;
    let data_offset = r.at().next_multiple_of(alignment).min(length);
    place(&mut tensors, data_offset, length)?;
    Ok(Header { version, metadata, tensors, data_offset, alignment })
}

/// The magic and the version.
fn signature(r: &mut Reader<'_>) -> Result<u32> {
    let magic: [u8; 4] = r.array("the GGUF signature")?;
    if magic != MAGIC {
        return r.error(0, format!("not a GGUF file: it starts with \"{}\" instead of \"GGUF\"", magic.escape_ascii()));
    }
    let refuse = |feature: String| Err(Error::unsupported(feature, "convert the model again for GGUF version 3"));
    match r.u32("the GGUF version")? {
        v @ (2 | 3) => Ok(v),
        v if v.swap_bytes() < 1 << 16 && v >= 1 << 16 => {
            refuse(format!("big-endian GGUF (version {})", v.swap_bytes()))
        }
        v => refuse(format!("GGUF version {v}")),
    }
}

/// Row `i` of the tensor table. `offset` is still relative to the data.
fn tensor(r: &mut Reader<'_>, i: usize, alignment: u64) -> Result<TensorInfo> {
    let name = r.utf8(format_args!("the name of tensor {i}"))?.to_owned();
    let shown = quoted(&name);
    let at = r.at();
    let count = r.u32(format_args!("the number of dimensions of tensor {shown}"))?;
    if !(1..=MAX_DIMS as u32).contains(&count) {
        return r.error(at, format!("tensor {shown} has {count} dimensions, where 1 to {MAX_DIMS} are allowed"));
    }
    let dims = r.many(count as usize, format_args!("the dimensions of tensor {shown}"), u64::from_le_bytes)?;
    let type_id = r.u32(format_args!("the type of tensor {shown}"))?;
    let offset_at = r.at();
    let offset = r.u64(format_args!("the offset of tensor {shown}"))?;

    if dims.contains(&0) {
        return r.error(at, format!("tensor {shown} has a dimension of 0 in {dims:?}"));
    }
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| i64::try_from(n).is_ok());
    let Some(elements) = elements else {
        return r.error(at, format!("tensor {shown} of dimensions {dims:?} has more than 2^63 elements"));
    };
    let bytes = match ggml_type(type_id) {
        None => 0,
        Some(t) => match size(t, dims[0], elements) {
            Ok(bytes) => bytes,
            Err(why) => return r.error(at, format!("tensor {shown} of type {} {why}", t.name)),
        },
    };
    if !offset.is_multiple_of(alignment) {
        return r.error(offset_at, format!("tensor {shown} has offset {offset}, not a multiple of {alignment}"));
    }
    Ok(TensorInfo { name, dims, type_id, offset, bytes })
}

/// Bytes of a tensor, or what is wrong with its dimensions.
fn size(t: &GgmlType, columns: u64, elements: u64) -> std::result::Result<u64, String> {
    let block = u64::from(t.block);
    if !columns.is_multiple_of(block) {
        return Err(format!("has rows of {columns} elements, not a multiple of its block of {block}"));
    }
    (elements / block)
        .checked_mul(t.bytes.into())
        .ok_or_else(|| format!("has {elements} elements, more than 2^64 bytes"))
}

/// Makes offsets relative to the file and checks that the data of each tensor lies in it, apart from the others.
fn place(tensors: &mut [TensorInfo], data_offset: u64, length: u64) -> Result<()> {
    for t in tensors.iter_mut() {
        let start = data_offset.checked_add(t.offset);
        match start.and_then(|s| s.checked_add(t.bytes)) {
            Some(end) if end <= length => t.offset += data_offset,
            _ => {
                return Err(Error::malformed(format!(
                    "the file is cut short or damaged: tensor {} takes {} bytes from offset {} of the data, which starts \
                     at {data_offset}, but the file has {length} bytes",
                    quoted(&t.name),
                    t.bytes,
                    t.offset
                )));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| (t.offset, t.bytes));
    for pair in order.windows(2) {
        let [a, b] = pair else { continue };
        if a.offset + a.bytes > b.offset {
            let what = format!("tensors {} and {} overlap", quoted(&a.name), quoted(&b.name));
            return Err(Error::Malformed { what, at: Some(b.offset) });
        }
    }
    Ok(())
}
