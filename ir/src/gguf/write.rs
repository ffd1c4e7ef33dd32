//! Making GGUF files (version 3): for tests, and for models made of random weights.

use super::{DEFAULT_ALIGNMENT, MAGIC, Metadata, Value};
use crate::gguf::Array;
use crate::quant::Format;
use std::io::{Error, ErrorKind, Result, Write};

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Name.
    pub name: String,
    /// Dimensions, slowest first; the last is a multiple of the format's block.
    pub shape: Vec<usize>,
    /// Format.
    pub format: Format,
}

impl NewTensor {
    /// Bytes of the data.
    pub fn bytes(&self) -> u64 {
        self.format.bytes_of(self.shape.iter().map(|&d| d as u64).product())
    }
}

/// A file to be: metadata and tensors, in the order in which they are written. The data of a tensor is asked for only
/// when its turn comes, so that files larger than memory can be made.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// Keys and values; `general.alignment`, if present, is obeyed.
    pub metadata: Metadata,
    /// The tensor table.
    pub tensors: Vec<NewTensor>,
}

impl Writer {
    /// A file with this metadata and no tensors.
    pub fn new(metadata: Metadata) -> Self {
        Writer { metadata, tensors: Vec::new() }
    }

    /// Appends a tensor; `shape` is slowest first.
    pub fn tensor(&mut self, name: impl Into<String>, shape: impl Into<Vec<usize>>, format: Format) -> &mut Self {
        self.tensors.push(NewTensor { name: name.into(), shape: shape.into(), format });
        self
    }

    /// Writes the file; `data(tensor, index, out)` writes the bytes of one tensor. An error if `out` fails or if `data`
    /// writes other than [`NewTensor::bytes`] bytes.
    pub fn write(
        &self,
        out: &mut dyn Write,
        mut data: impl FnMut(&NewTensor, usize, &mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let alignment = self.alignment()?;
        let mut out = Counted { out, at: 0 };
        self.header(&mut out, alignment)?;
        pad(&mut out, alignment)?;
        for (i, t) in self.tensors.iter().enumerate() {
            let start = out.at;
            data(t, i, &mut out)?;
            let (wrote, bytes) = (out.at - start, t.bytes());
            if wrote != bytes {
                let what = format!("tensor '{}' has {bytes} bytes, but {wrote} were written", t.name);
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            pad(&mut out, alignment)?;
        }
        out.flush()
    }

    /// Writes all that comes before the data, and gives the length of the whole file: for files whose data is a hole.
    pub fn header_to(&self, out: &mut dyn Write) -> Result<u64> {
        let alignment = self.alignment()?;
        let mut out = Counted { out, at: 0 };
        self.header(&mut out, alignment)?;
        pad(&mut out, alignment)?;
        out.flush()?;
        Ok(self.tensors.iter().fold(out.at, |at, t| (at + t.bytes()).next_multiple_of(alignment)))
    }

    fn alignment(&self) -> Result<u64> {
        let alignment = self
            .metadata
            .opt_u32("general.alignment")
            .map_err(|e| Error::new(ErrorKind::InvalidInput, e.to_string()))?
            .map_or(u64::from(DEFAULT_ALIGNMENT), u64::from);
        if !alignment.is_power_of_two() {
            let what = format!("general.alignment is {alignment}, not a power of two");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        Ok(alignment)
    }

    /// The file in memory; `data` holds the bytes of each tensor.
    pub fn to_vec(&self, data: &[impl AsRef<[u8]>]) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        self.write(&mut file, |t, i, out| match data.get(i) {
            Some(bytes) => out.write_all(bytes.as_ref()),
            None => Err(Error::new(ErrorKind::InvalidInput, format!("tensor '{}' has no data", t.name))),
        })?;
        Ok(file)
    }

    fn header(&self, out: &mut dyn Write, alignment: u64) -> Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&3u32.to_le_bytes())?;
        put_len(out, self.tensors.len())?;
        put_len(out, self.metadata.len())?;
        for (key, value) in self.metadata.iter() {
            put_string(out, key.as_bytes())?;
            out.write_all(&value.type_id().to_le_bytes())?;
            put_value(out, value)?;
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            put_string(out, t.name.as_bytes())?;
            out.write_all(&(t.shape.len() as u32).to_le_bytes())?;
            for &d in t.shape.iter().rev() {
                put_len(out, d)?;
            }
            out.write_all(&t.format.id.to_le_bytes())?;
            out.write_all(&offset.to_le_bytes())?;
            offset = (offset + t.bytes()).next_multiple_of(alignment);
        }
        Ok(())
    }
}

/// Counts what passes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    at: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let n = self.out.write(bytes)?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}

fn pad(out: &mut Counted<'_>, alignment: u64) -> Result<()> {
    let mut left = out.at.next_multiple_of(alignment) - out.at;
    const ZEROS: [u8; 4096] = [0; 4096];
    while left > 0 {
        let n = left.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..n as usize])?;
        left -= n;
    }
    Ok(())
}

fn put_len(out: &mut dyn Write, n: usize) -> Result<()> {
    out.write_all(&(n as u64).to_le_bytes())
}

fn put_string(out: &mut dyn Write, s: &[u8]) -> Result<()> {
    put_len(out, s.len())?;
    out.write_all(s)
}

fn put_value(out: &mut dyn Write, value: &Value) -> Result<()> {
    match value {
        Value::U8(v) => out.write_all(&v.to_le_bytes()),
        Value::I8(v) => out.write_all(&v.to_le_bytes()),
        Value::U16(v) => out.write_all(&v.to_le_bytes()),
        Value::I16(v) => out.write_all(&v.to_le_bytes()),
        Value::U32(v) => out.write_all(&v.to_le_bytes()),
        Value::I32(v) => out.write_all(&v.to_le_bytes()),
        Value::F32(v) => out.write_all(&v.to_le_bytes()),
        Value::Bool(v) => out.write_all(&[u8::from(*v)]),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.write_all(&v.to_le_bytes()),
        Value::I64(v) => out.write_all(&v.to_le_bytes()),
        Value::F64(v) => out.write_all(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut dyn Write, array: &Array) -> Result<()> {
    out.write_all(&array.type_id().to_le_bytes())?;
    put_len(out, array.len())?;
    match array {
        Array::U8(v) => out.write_all(v),
        Array::I8(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::U16(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I16(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::U32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::F32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::Bool(v) => v.iter().try_for_each(|x| out.write_all(&[u8::from(*x)])),
        Array::String(v) => v.iter().try_for_each(|x| put_string(out, x)),
        Array::Array(v) => v.iter().try_for_each(|x| put_array(out, x)),
        Array::U64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::F64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
    }
}
