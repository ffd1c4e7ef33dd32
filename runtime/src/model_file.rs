//! A model's GGUF file or files, mapped: metadata, tensors and their bytes.
//!
//! Files that hold something else are named for what they are (`foreign`). A model split by llama.cpp's gguf-split lies in shards `NAME-00001-of-00003.gguf` …; opening any of them opens all.
//! Invariant: `split.*` metadata and file names agree, and a tensor's name leads to exactly one range of bytes that lies
//! inside its shard. Next hop: the reader brings those bytes to memory, and the loader to where the plan places them.

mod foreign;

use crate::device::HostBytes;
use crate::reader::{Embedded, OnDisk, Reading, Source};
use crate::sys::Mapping;
use crate::{Error, Result};
use ir::gguf::{self, Header, MAGIC, Metadata, ModelIdentity, ShardIdentity, TensorInfo};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the bytes of a shard are.
#[derive(Debug)]
enum Contents {
    Mapped(Arc<Mapping>),
    Static(&'static [u8]),
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    contents: Contents,
    header: Header,
}

impl Shard {
    /// Maps and parses one file.
    fn open(path: &Path) -> Result<Shard> {
        let contents = Contents::Mapped(Arc::new(Mapping::open(path).map_err(|e| unreadable(path, e))?));
        Shard::new(path.to_owned(), contents)
    }

    fn new(path: PathBuf, contents: Contents) -> Result<Shard> {
        let bytes = match &contents {
            Contents::Mapped(m) => m.bytes(),
            Contents::Static(b) => b,
        };
        let header = gguf::parse(bytes).map_err(|e| match e {
            ir::Error::Malformed { .. } if foreign::is_piece(&path) => {
                let path = path.display();
                Error::input(format!("{path} is a piece of a file; join its pieces, in order, with cat"))
            }
            ir::Error::Malformed { .. } if !bytes.starts_with(&MAGIC) => {
                let start = &bytes[..bytes.len().min(4)];
                Error::input(foreign::Other::of_bytes(bytes).map_or_else(
                    || {
                        format!(
                            "{} is not a GGUF file: it starts with \"{}\" instead of \"GGUF\"; give a .gguf model file",
                            path.display(),
                            start.escape_ascii()
                        )
                    },
                    |other| other.sentence(&path),
                ))
            }
            ir::Error::Malformed { .. } => {
                Error::input(format!("{} cannot be used: {e}; download or convert it again", path.display()))
            }
            e => Error::input(format!("{}: {e}", path.display())),
        })?;
        Ok(Shard { path, contents, header })
    }

    /// The file, or the name given to embedded bytes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.contents {
            Contents::Mapped(m) => m.bytes(),
            Contents::Static(b) => b,
        }
    }

    /// Its metadata and tensor table.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file as the [reader](crate::reader) takes it; bytes in this program are always lent.
    pub fn source(&self, reading: Reading) -> Box<dyn Source + '_> {
        match &self.contents {
            Contents::Mapped(m) => Box::new(OnDisk::new(&self.path, m, reading)),
            Contents::Static(bytes) => Box::new(Embedded(&self.path, bytes)),
        }
    }

    /// Takes a range of the file out of this process's memory; it is read again when touched.
    pub fn release(&self, offset: usize, bytes: usize) {
        if let Contents::Mapped(m) = &self.contents {
            m.release(offset, bytes);
        }
    }

    fn unchanged(&self) -> bool {
        match &self.contents {
            Contents::Mapped(m) => m.unchanged(),
            Contents::Static(_) => true,
        }
    }

    /// Bytes of this shard, which outlive the model file.
    pub fn share(&self, offset: u64, bytes: usize) -> HostBytes {
        let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = match &self.contents {
            Contents::Mapped(m) => m.clone(),
            Contents::Static(b) => Arc::new(*b),
        };
        HostBytes::new(owner, offset as usize, bytes)
    }

    fn identity(&self) -> ShardIdentity {
        const PIECE: usize = ShardIdentity::SAMPLE_BYTES as usize;
        const PIECES: usize = ShardIdentity::SAMPLES as usize;
        let (header, data) = self.bytes().split_at(self.header.data_offset as usize);
        let mut samples = Sha256::new();
        if data.len() <= PIECE * PIECES {
            samples.update(data);
        } else {
            for i in 0..PIECES {
                let start = ((data.len() - PIECE) as u128 * i as u128 / (PIECES - 1) as u128) as usize;
                samples.update(&data[start..start + PIECE]);
            }
        }
        ShardIdentity {
            length: self.bytes().len() as u64,
            header: format!("{:x}", Sha256::digest(header)),
            samples: format!("{:x}", samples.finalize()),
        }
    }
}

/// Why a file could not be mapped, and what to do.
fn unreadable(path: &Path, e: std::io::Error) -> Error {
    let what = match e.kind() {
        ErrorKind::NotFound => "does not exist; check the path",
        ErrorKind::PermissionDenied => "cannot be read by this user; change its permissions",
        ErrorKind::IsADirectory => "is a directory; give the .gguf file in it",
        ErrorKind::InvalidInput => "is not a regular file; give a .gguf model file",
        ErrorKind::UnexpectedEof => "is empty; download or convert it again",
        _ => return Error::io(path, e),
    };
    Error::input(format!("{} {what}", path.display()))
}

/// A model: one file, or all shards of a split one.
#[derive(Debug)]
pub struct ModelFile {
    shards: Vec<Shard>,
    /// Tensor name to shard and row of its table.
    index: HashMap<String, (usize, usize)>,
}

impl ModelFile {
    /// Opens a model by its file, or by any of its shards.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile> {
        let path = path.as_ref();
        let given = Shard::open(path)?;
        let Some(count) = split_count(&given)? else { return ModelFile::merge(vec![given]) };
        let name = path.file_name().and_then(|n| n.to_str()).and_then(ShardName::parse);
        let Some(name) = name.filter(|n| n.count == count && (1..=count).contains(&n.number)) else {
            return Err(Error::input(format!(
                "{} is one of {count} shards, which are found by their names; name them \
                 NAME-00001-of-{count:05}.gguf to NAME-{count:05}-of-{count:05}.gguf",
                path.display()
            )));
        };
        let mut given = Some(given);
        let mut shards = Vec::new();
        for number in 1..=count {
            let shard = match given.take_if(|_| number == name.number) {
                Some(shard) => shard,
                None => {
                    let sibling = path.with_file_name(name.sibling(number));
                    match Shard::open(&sibling) {
                        Err(_) if !sibling.exists() => {
                            return Err(Error::input(format!(
                                "{} is missing: the model has {count} shards, which must lie in the same folder",
                                sibling.display()
                            )));
                        }
                        shard => shard?,
                    }
                }
            };
            let place = (split_count(&shard)?, shard.header.metadata.opt_u32("split.no")?);
            if place != (Some(count), Some(number - 1)) {
                return Err(Error::input(format!(
                    "{} is not shard {number} of {count} by its own metadata (split.no {}, split.count {}); give the \
                     shards their original names",
                    shard.path.display(),
                    shown(place.1),
                    shown(place.0)
                )));
            }
            shards.push(shard);
        }
        ModelFile::merge(shards)
    }

    /// A model whose bytes are in this program; `name` stands for its path in messages.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<ModelFile> {
        ModelFile::merge(vec![Shard::new(name.into(), Contents::Static(bytes))?])
    }

    fn merge(shards: Vec<Shard>) -> Result<ModelFile> {
        let mut index: HashMap<String, (usize, usize)> = HashMap::new();
        for (s, shard) in shards.iter().enumerate() {
            for (t, tensor) in shard.header.tensors.iter().enumerate() {
                if let Some((first, _)) = index.insert(tensor.name.clone(), (s, t)) {
                    return Err(Error::input(format!(
                        "tensor '{}' is both in {} and in {}; the shards are not of one model",
                        tensor.name,
                        shards[first].path.display(),
                        shard.path.display()
                    )));
                }
            }
        }
        let model = ModelFile { shards, index };
        let expected = model.metadata().opt_u64("split.tensors.count")?;
        let found = model.index.len() as u64;
        if model.shards.len() > 1 && expected.is_some_and(|n| n != found) {
            return Err(Error::input(format!(
                "the shards of {} hold {found} tensors, but split.tensors.count is {}; the shards are not of one model",
                model.path().display(),
                shown(expected)
            )));
        }
        Ok(model)
    }

    /// The first file, or the name given to embedded bytes.
    pub fn path(&self) -> &Path {
        self.shards[0].path()
    }

    /// What the file holds, and what to do, if that is known to be no model that writes text: a sentence that begins with
    /// the file.
    pub fn no_model(&self) -> Option<String> {
        let Header { metadata, tensors, .. } = &self.shards[0].header;
        foreign::Other::of_header(metadata, tensors).map(|other| other.sentence(self.path()))
    }

    /// All files, in order; there is at least one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The metadata of the first file, which holds that of the model.
    pub fn metadata(&self) -> &Metadata {
        &self.shards[0].header.metadata
    }

    /// Every tensor with the number of its shard, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &TensorInfo)> {
        self.shards.iter().enumerate().flat_map(|(s, shard)| shard.header.tensors.iter().map(move |t| (s, t)))
    }

    /// A tensor and the number of its shard, if there is one of this name.
    pub fn find(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        self.index.get(name).map(|&(s, t)| (s, &self.shards[s].header.tensors[t]))
    }

    /// A tensor and the number of its shard; an error if there is none of this name.
    pub fn tensor(&self, name: &str) -> Result<(usize, &TensorInfo)> {
        self.find(name).ok_or_else(|| Error::input(format!("{} has no tensor '{name}'", self.path().display())))
    }

    /// The data of a tensor as stored. Empty if GGML does not define its type.
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8]> {
        let (shard, t) = self.tensor(name)?;
        Ok(&self.shards[shard].bytes()[t.offset as usize..][..t.bytes as usize])
    }

    /// The length of all files, bytes.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes().len() as u64).sum()
    }

    /// Checks that no file was changed since it was opened, as far as lengths and times of change tell. What was read
    /// before is the file's contents if this succeeds afterwards.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file.
    pub fn check_unchanged(&self) -> Result<()> {
        match self.shards.iter().find(|s| !s.unchanged()) {
            None => Ok(()),
            Some(s) => Err(Error::input(format!(
                "{} was changed while it was in use, so the results are worthless; run again when nothing writes to it",
                s.path.display()
            ))),
        }
    }

    /// What tells this model's contents from another's; reads the headers and 256 KiB of each shard's data.
    pub fn identity(&self) -> ModelIdentity {
        ModelIdentity { shards: self.shards.iter().map(Shard::identity).collect() }
    }

    /// The SHA-256 of each file, in hexadecimal. Reads everything; `progress` is told the bytes done now and then.
    pub fn verify_hash(&self, mut progress: impl FnMut(u64)) -> Vec<String> {
        const PIECE: usize = 16 << 20;
        let mut done = 0;
        let hash = |shard: &Shard| {
            let mut hash = Sha256::new();
            for (i, piece) in shard.bytes().chunks(PIECE).enumerate() {
                hash.update(piece);
                shard.release(i * PIECE, piece.len());
                done += piece.len() as u64;
                progress(done);
            }
            format!("{:x}", hash.finalize())
        };
        self.shards.iter().map(hash).collect()
    }
}

/// How many shards the file says its model has, if it is one of several.
fn split_count(shard: &Shard) -> Result<Option<u32>> {
    Ok(shard.header.metadata.opt_u32("split.count")?.filter(|&n| n > 1))
}

fn shown(n: Option<impl std::fmt::Display>) -> String {
    n.map_or_else(|| "missing".into(), |n| n.to_string())
}

/// A file name of the form `NAME-00001-of-00003.gguf`.
struct ShardName<'a> {
    stem: &'a str,
    /// From 1.
    number: u32,
    count: u32,
}

impl ShardName<'_> {
    fn parse(name: &str) -> Option<ShardName<'_>> {
        let digits = |s: &str| (s.len() >= 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok())?;
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        Some(ShardName { stem, number: digits(number)?, count: digits(count)? })
    }

    fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::gguf::{Value, Writer};
    use ir::quant::F32;

    /// A file with these metadata and one-row tensors, each filled with its own byte.
    fn file(metadata: &[(&str, Value)], tensors: &[(&str, u8)]) -> Vec<u8> {
        let mut w = Writer::new(metadata.iter().cloned().collect());
        for (name, _) in tensors {
            w.tensor(*name, [4], F32);
        }
        let data: Vec<_> = tensors.iter().map(|&(_, b)| vec![b; 16]).collect();
        w.to_vec(&data).unwrap()
    }

    fn shard(number: u16, count: u16, total: i32, tensors: &[(&str, u8)]) -> Vec<u8> {
        let split = [
            ("split.no", Value::U16(number)),
            ("split.count", Value::U16(count)),
            ("split.tensors.count", Value::I32(total)),
        ];
        let mut metadata = split.to_vec();
        if number == 0 {
            metadata.push(("general.name", "whole".into()));
        }
        file(&metadata, tensors)
    }

    fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn opens_one_file_or_embedded_bytes() {
        let bytes = file(&[("general.name", "one".into())], &[("a", 1), ("b", 2)]);
        let dir = dir(&[("m.gguf", &bytes)]);
        let mapped = ModelFile::open(dir.path().join("m.gguf")).unwrap();
        let embedded = ModelFile::from_static("demo", Box::leak(bytes.clone().into_boxed_slice())).unwrap();
        for m in [&mapped, &embedded] {
            assert_eq!(m.metadata().str("general.name").unwrap(), "one");
            assert_eq!(m.tensor_bytes("b").unwrap(), [2; 16]);
            assert_eq!(m.tensor("a").unwrap().0, 0);
            assert_eq!(m.tensors().map(|(_, t)| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(m.bytes(), bytes.len() as u64);
            let mut told = 0;
            assert_eq!(m.verify_hash(|n| told = n), [format!("{:x}", Sha256::digest(&bytes))]);
            assert_eq!(told, bytes.len() as u64);
        }
        assert_eq!(mapped.identity(), embedded.identity());
        assert_eq!(embedded.tensor("c").unwrap_err().to_string(), "demo has no tensor 'c'");
    }

    #[test]
    fn any_shard_opens_all() {
        let shards = [
            ("m-00001-of-00003.gguf", shard(0, 3, 4, &[("a", 1), ("b", 2)])),
            ("m-00002-of-00003.gguf", shard(1, 3, 4, &[("c", 3)])),
            ("m-00003-of-00003.gguf", shard(2, 3, 4, &[("d", 4)])),
        ];
        let files: Vec<_> = shards.iter().map(|(n, b)| (*n, b.as_slice())).collect();
        let dir = dir(&files);
        for (name, _) in &shards {
            let m = ModelFile::open(dir.path().join(name)).unwrap();
            assert_eq!(m.metadata().str("general.name").unwrap(), "whole");
            assert_eq!(m.path().file_name().unwrap(), "m-00001-of-00003.gguf");
            for (tensor, shard, byte) in [("a", 0, 1), ("b", 0, 2), ("c", 1, 3), ("d", 2, 4)] {
                assert_eq!(m.tensor(tensor).unwrap().0, shard);
                assert_eq!(m.tensor_bytes(tensor).unwrap(), [byte; 16]);
            }
            assert_eq!(m.identity().shards.len(), 3);
        }
    }

    #[test]
    fn refuses() {
        let good = shard(0, 2, 2, &[("a", 1)]);
        let check = |files: &[(&str, &[u8])], open: &str, message: &str| {
            let dir = dir(files);
            let error = ModelFile::open(dir.path().join(open)).expect_err(message).to_string();
            let error = error.replace(&format!("{}/", dir.path().display()), "");
            assert!(error.contains(message), "\n  want {message}\n  got  {error}");
        };
        check(&[], "x.gguf", "x.gguf does not exist; check the path");
        check(&[], ".", " is a directory; give the .gguf file in it");
        check(&[("x.gguf", b"")], "x.gguf", "x.gguf is empty; download or convert it again");
        check(
            &[("x.gguf", b"\x7fELF\x02")],
            "x.gguf",
            "x.gguf is not a GGUF file: it starts with \"\\x7fELF\" instead of \"GGUF\"; give a .gguf model file",
        );
        check(&[("x.gguf", b"PK\x03\x04 archive")], "x.gguf", "x.gguf is a zip archive; unpack it");
        check(&[("x.gguf.part1", &good[..40])], "x.gguf.part1", "x.gguf.part1 is a piece of a file; join its pieces");
        check(&[("x.gguf", b"GG")], "x.gguf", "x.gguf is not a GGUF file: it starts with \"GG\"");
        check(
            &[("x.gguf", &good[..good.len() - 1 - 16])],
            "x.gguf",
            "x.gguf cannot be used: the file is cut short or damaged: tensor 'a' takes 16 bytes",
        );
        check(
            &[("x.gguf", b"GGUF\x01\0\0\0")],
            "x.gguf",
            "x.gguf: GGUF version 1 is not supported; convert the model again for GGUF version 3",
        );
        check(&[("x.gguf", &good)], "x.gguf", "x.gguf is one of 2 shards, which are found by their names");
        let one = "m-00001-of-00002.gguf";
        let two = "m-00002-of-00002.gguf";
        check(&[(one, &good)], one, "m-00002-of-00002.gguf is missing: the model has 2 shards");
        check(&[(two, &good)], two, "m-00001-of-00002.gguf is missing: the model has 2 shards");
        check(
            &[(one, &good), (two, &good)],
            one,
            "m-00002-of-00002.gguf is not shard 2 of 2 by its own metadata (split.no 0, split.count 2)",
        );
        check(
            &[(one, &good), (two, &shard(1, 2, 2, &[("a", 1)]))],
            one,
            "tensor 'a' is both in m-00001-of-00002.gguf and in m-00002-of-00002.gguf",
        );
        check(
            &[(one, &good), (two, &shard(1, 2, 2, &[("b", 1), ("c", 2)]))],
            one,
            "hold 3 tensors, but split.tensors.count is 2",
        );
        check(&[(one, &good), (two, b"")], one, "m-00002-of-00002.gguf is empty");
    }

    #[test]
    fn identity_sees_header_length_and_samples() {
        let base = || {
            let mut w = Writer::new([("k", Value::U32(1))].into_iter().collect());
            w.tensor("t", [1024, 1024], F32);
            w
        };
        let data = vec![0u8; 4 << 20];
        let identity = |w: &Writer, data: &[u8]| {
            let bytes = w.to_vec(&[data]).unwrap();
            ModelFile::from_static("x", Box::leak(bytes.into_boxed_slice())).unwrap().identity()
        };
        let first = identity(&base(), &data);
        let mut other = base();
        other.metadata.insert("k", Value::U32(2));
        let check = |found: ModelIdentity, want: Option<&str>| assert_eq!(first.difference(&found).as_deref(), want);
        check(identity(&base(), &data), None);
        check(identity(&other, &data), Some("the metadata or the tensor table differ"));
        for at in [0, (4 << 20) - 1] {
            let mut changed = data.clone();
            changed[at] = 1;
            check(identity(&base(), &changed), Some("the tensor data differ"));
        }
    }
}
