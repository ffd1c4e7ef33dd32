//! Test cases in folders: kernels as PTX for several targets, a launch, inputs and what must come out. The form is that of
//! the folders that `rigc emulate` takes: `case.json`, the PTX files, raw little-endian arrays.

use crate::{Counters, Error, Fault, FaultKind, Launch, Memory, Module, Options};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Bytes of emulated memory of a case.
const CAPACITY: u64 = 1 << 32;
/// Bytes of the buffers that no file of the case is as long as.
const MOST_BLANK: u64 = 1 << 26;
/// Bytes of `case.json` and of a PTX text.
const MOST_TEXT: u64 = 1 << 26;

/// Why a case cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct CaseError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

fn bad(path: &Path, what: impl fmt::Display) -> CaseError {
    CaseError { path: path.to_owned(), what: what.to_string() }
}

#[derive(Deserialize)]
struct Json {
    entry: String,
    ptx: BTreeMap<String, String>,
    grid: [u32; 3],
    block: [u32; 3],
    #[serde(default)]
    dynamic_shared_bytes: u64,
    params: Vec<JsonParam>,
    expect_fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum JsonParam {
    Scalar {
        name: String,
        dtype: DType,
        value: Value,
        bits: Option<String>,
    },
    Buffer {
        name: String,
        dtype: DType,
        count: u64,
        direction: Direction,
        file: Option<String>,
        expected: Option<String>,
        tolerance: Option<Tolerance>,
    },
}

/// Element type of a buffer or a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DType {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl DType {
    fn bytes(self) -> usize {
        match self {
            DType::U8 | DType::S8 => 1,
            DType::U16 | DType::S16 | DType::F16 | DType::Bf16 => 2,
            DType::U32 | DType::S32 | DType::F32 => 4,
            DType::U64 | DType::S64 | DType::F64 => 8,
        }
    }

    /// The value of an element, as far as f64 can tell.
    fn value(self, element: &[u8]) -> f64 {
        use crate::alu::soft::{BF16, F16};
        let mut word = [0; 8];
        word[..element.len()].copy_from_slice(element);
        let bits = u64::from_le_bytes(word);
        match self {
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => bits as f64,
            DType::S8 => f64::from(bits as i8),
            DType::S16 => f64::from(bits as i16),
            DType::S32 => f64::from(bits as i32),
            DType::S64 => bits as i64 as f64,
            DType::F16 => F16.value(bits),
            DType::Bf16 => BF16.value(bits),
            DType::F32 => f64::from(f32::from_bits(bits as u32)),
            DType::F64 => f64::from_bits(bits),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    In,
    Out,
    Inout,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
enum Tolerance {
    Exact,
    Close { rtol: f64, atol: f64 },
}

impl Tolerance {
    fn allows(self, dtype: DType, got: &[u8], want: &[u8]) -> bool {
        match self {
            Tolerance::Exact => got == want,
            Tolerance::Close { rtol, atol } => {
                let (got, want) = (dtype.value(got), dtype.value(want));
                // Infinities are equal or not; a nan is never close.
                got == want || (got - want).abs() <= atol + rtol * want.abs()
            }
        }
    }
}

#[derive(Debug)]
struct Buffer {
    name: String,
    dtype: DType,
    count: u64,
    direction: Direction,
    contents: Option<Vec<u8>>,
    expected: Option<Vec<u8>>,
    tolerance: Tolerance,
}

impl Buffer {
    fn bytes(&self) -> u64 {
        self.count * self.dtype.bytes() as u64
    }
}

#[derive(Debug)]
enum Param {
    Scalar(Vec<u8>),
    Buffer(Buffer),
}

/// A case.
#[derive(Debug)]
pub struct Case {
    /// The name of its folder.
    pub name: String,
    /// PTX texts by target.
    pub ptx: BTreeMap<String, String>,
    /// The kind of fault that the kernel must cause; without one it must give the expected outputs.
    pub expect_fault: Option<String>,
    entry: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u64,
    params: Vec<Param>,
}

/// How a case ended for one target.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// As it must.
    Pass,
    /// An output differs.
    Difference {
        /// The buffer.
        buffer: String,
        /// The first element that differs.
        index: u64,
        /// What the kernel wrote, or that it wrote nothing.
        got: String,
        /// What it had to write.
        expected: String,
    },
    /// A fault that must not be, or another than must be.
    Fault(Box<Fault>),
    /// It ended without the fault that must be.
    NoFault(String),
    /// The PTX was refused, or the launch was.
    Refused(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Pass => write!(f, "pass"),
            Outcome::Difference { buffer, index, got, expected } => {
                write!(f, "difference: {buffer}[{index}] is {got}, expected {expected}")
            }
            Outcome::Fault(fault) => write!(f, "fault: {fault}"),
            Outcome::NoFault(kind) => write!(f, "no fault: expected {kind}"),
            Outcome::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// The case folders in a folder, or the folder itself if it is one.
///
/// # Errors
/// If it cannot be read or there is none.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>, CaseError> {
    if dir.join("case.json").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| bad(dir, e))?;
    let folders = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut found: Vec<PathBuf> = folders.filter(|p| p.join("case.json").is_file()).collect();
    found.sort();
    if found.is_empty() { Err(bad(dir, "neither it nor a folder in it has a case.json")) } else { Ok(found) }
}

/// Opens a file of a case folder, which lies in it and is a file; and its length.
fn open(dir: &Path, file: &str) -> Result<(PathBuf, File, u64), CaseError> {
    let path = dir.join(file);
    let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
    if !inside || file.is_empty() {
        return Err(bad(&path, "a file of a case lies in its folder; give its path from there, without \"..\""));
    }
    // A pipe or a device would block, or never end.
    let meta = std::fs::metadata(&path).map_err(|e| bad(&path, e))?;
    if !meta.is_file() {
        return Err(bad(&path, "it is no regular file"));
    }
    let opened = File::open(&path).map_err(|e| bad(&path, e))?;
    Ok((path, opened, meta.len()))
}

fn text(dir: &Path, file: &str) -> Result<String, CaseError> {
    let (path, opened, bytes) = open(dir, file)?;
    if bytes > MOST_TEXT {
        return Err(bad(&path, format!("it has {bytes} bytes, {MOST_TEXT} is the limit")));
    }
    let mut text = String::new();
    opened.take(MOST_TEXT).read_to_string(&mut text).map_err(|e| bad(&path, e))?;
    Ok(text)
}

fn array(dir: &Path, file: &str, bytes: u64) -> Result<Vec<u8>, CaseError> {
    let (path, opened, there) = open(dir, file)?;
    let declared = |there| bad(&path, format!("it has {there} bytes, {bytes} are declared"));
    if there != bytes {
        return Err(declared(there));
    }
    let mut data = Vec::new();
    opened.take(bytes).read_to_end(&mut data).map_err(|e| bad(&path, e))?;
    if data.len() as u64 == bytes { Ok(data) } else { Err(declared(data.len() as u64)) }
}

/// The bytes of a scalar.
fn scalar(dtype: DType, value: &Value, bits: Option<&str>) -> Option<Vec<u8>> {
    let bits = match bits {
        Some(hex) => u64::from_str_radix(hex.strip_prefix("0x")?, 16).ok()?,
        None => match dtype {
            DType::F64 => value.as_f64()?.to_bits(),
            DType::F32 => u64::from((value.as_f64()? as f32).to_bits()),
            DType::F16 | DType::Bf16 => return None,
            _ => value.as_u64().or_else(|| value.as_i64().map(|v| v as u64))?,
        },
    };
    Some(bits.to_le_bytes()[..dtype.bytes()].to_vec())
}

impl Case {
    /// Reads a case folder.
    ///
    /// # Errors
    /// If a file is missing, malformed, or not as long as `case.json` says.
    pub fn read(dir: &Path) -> Result<Case, CaseError> {
        let path = dir.join("case.json");
        let json: Json = serde_json::from_str(&text(dir, "case.json")?).map_err(|e| bad(&path, e))?;
        if json.ptx.is_empty() {
            return Err(bad(&path, "it names no PTX: \"ptx\" is empty"));
        }
        let (mut params, mut blank) = (Vec::new(), 0);
        for p in json.params {
            params.push(match p {
                JsonParam::Scalar { name, dtype, value, bits } => {
                    let bytes = scalar(dtype, &value, bits.as_deref());
                    Param::Scalar(bytes.ok_or_else(|| bad(&path, format!("the value of {name:?} is no {dtype:?}")))?)
                }
                JsonParam::Buffer { name, dtype, count, direction, file, expected, tolerance } => {
                    let bytes = count.checked_mul(dtype.bytes() as u64).filter(|&n| n <= CAPACITY);
                    let bytes = bytes.ok_or_else(|| bad(&path, format!("{name:?} has {count} elements, too many")))?;
                    let read = |f: Option<String>| f.map(|f| array(dir, &f, bytes)).transpose();
                    let (contents, expected) = (read(file)?, read(expected)?);
                    if contents.is_none() && expected.is_none() {
                        blank += bytes;
                    }
                    if blank > MOST_BLANK {
                        return Err(bad(&path, format!("buffers without files have more than {MOST_BLANK} bytes")));
                    }
                    if (direction == Direction::Out) == contents.is_some() {
                        return Err(bad(&path, format!("{name:?} needs a file if and only if it is read")));
                    }
                    let tolerance = tolerance.unwrap_or(Tolerance::Exact);
                    Param::Buffer(Buffer { name, dtype, count, direction, contents, expected, tolerance })
                }
            });
        }
        let mut ptx = BTreeMap::new();
        for (target, file) in json.ptx {
            ptx.insert(target, text(dir, &file)?);
        }
        let name = dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Case {
            name,
            ptx,
            expect_fault: json.expect_fault,
            entry: json.entry,
            grid: json.grid,
            block: json.block,
            dynamic_shared: json.dynamic_shared_bytes,
            params,
        })
    }

    /// Runs the case with one of its PTX texts.
    pub fn run(&self, ptx: &str, options: &Options) -> Outcome {
        self.run_counted(ptx, options).0
    }

    /// [`Case::run`], and what the kernel executed if it ran to its end.
    pub fn run_counted(&self, ptx: &str, options: &Options) -> (Outcome, Option<Counters>) {
        match self.execute(ptx, options) {
            Ok((memory, ended, buffers)) => {
                let counters = ended.as_ref().ok().cloned();
                (self.judge(memory, ended, &buffers), counters)
            }
            Err(refused) => (Outcome::Refused(refused), None),
        }
    }

    fn judge(&self, mut memory: Memory, ended: Result<Counters, Error>, buffers: &[(&Buffer, u64)]) -> Outcome {
        match (ended, &self.expect_fault) {
            (Err(Error::Fault(fault)), Some(kind)) if fault.kind.name() == *kind => Outcome::Pass,
            (Err(Error::Fault(fault)), _) if fault.kind == FaultKind::Undefined => Outcome::Refused(fault.to_string()),
            (Err(Error::Fault(fault)), _) => Outcome::Fault(fault),
            (Err(Error::Launch(e)), _) => Outcome::Refused(e.to_string()),
            (Ok(_), Some(kind)) => {
                let outputs = buffers.iter().filter(|(b, _)| b.direction != Direction::In);
                let mut undefined = outputs.filter_map(|(b, at)| Some(memory.undefined(*at, b.bytes())?.clone()));
                match undefined.next() {
                    Some(fault) if fault.kind.name() == *kind => Outcome::Pass,
                    Some(fault) => Outcome::Fault(Box::new(fault)),
                    None => Outcome::NoFault(kind.clone()),
                }
            }
            (Ok(_), None) => compare(&mut memory, buffers).unwrap_or(Outcome::Pass),
        }
    }

    /// Runs the case and counts what it executes; nothing is compared.
    ///
    /// # Errors
    /// Why the kernel does not run to its end, in words.
    pub fn count(&self, ptx: &str, options: &Options) -> Result<Counters, String> {
        self.execute(ptx, options)?.1.map_err(|e| e.to_string())
    }

    /// Runs the kernel: memory, how it ended, and where the buffers are.
    fn execute(&self, ptx: &str, options: &Options) -> Result<Execution<'_>, String> {
        let module = Module::parse(ptx).map_err(|e| e.to_string())?;
        let mut memory = Memory::new(CAPACITY);
        let full = |e: crate::MemoryError| e.to_string();
        let loaded = module.load(&mut memory).map_err(full)?;
        let (mut params, mut buffers) = (Vec::new(), Vec::new());
        for p in &self.params {
            let bytes = match p {
                Param::Scalar(bytes) => bytes.clone(),
                Param::Buffer(b) => {
                    let address = match &b.contents {
                        Some(contents) => memory.alloc_with(contents.clone(), 256),
                        None => memory.alloc(b.bytes(), 256),
                    };
                    let address = address.map_err(full)?;
                    if b.direction == Direction::In {
                        memory.protect(address).map_err(full)?;
                    }
                    buffers.push((b, address));
                    address.to_le_bytes().to_vec()
                }
            };
            params.resize(params.len().next_multiple_of(bytes.len()), 0);
            params.extend(bytes);
        }
        let launch = Launch {
            entry: self.entry.clone(),
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params,
        };
        let ended = loaded.run(&mut memory, &launch, options);
        Ok((memory, ended, buffers))
    }
}

/// Memory after a run, how it ended, and the buffers with their addresses.
type Execution<'a> = (Memory, Result<Counters, Error>, Vec<(&'a Buffer, u64)>);

/// The first difference of an output.
fn compare(memory: &mut Memory, buffers: &[(&Buffer, u64)]) -> Option<Outcome> {
    for (b, address) in buffers {
        let Some(expected) = &b.expected else { continue };
        let width = b.dtype.bytes();
        for (i, want) in expected.chunks_exact(width).enumerate() {
            let got = memory.read(address + (i * width) as u64, width as u64).ok().map(<[u8]>::to_vec);
            let got = got.as_deref();
            if got.is_some_and(|got| b.tolerance.allows(b.dtype, got, want)) {
                continue;
            }
            let fault = if got.is_some() { None } else { memory.undefined(address + (i * width) as u64, width as u64) };
            if let Some(fault) = fault {
                return Some(Outcome::Fault(Box::new(fault.clone())));
            }
            let show = |bytes: &[u8]| {
                let hex: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
                format!("{} (0x{hex})", b.dtype.value(bytes))
            };
            return Some(Outcome::Difference {
                buffer: b.name.clone(),
                index: i as u64,
                got: got.map_or_else(|| "not written".to_owned(), show),
                expected: show(want),
            });
        }
    }
    None
}
