//! The key-value part of a GGUF file.

use super::read::Reader;
use super::strings::Strings;
use crate::quote::quoted;
use crate::{Error, Result};
use std::collections::HashMap;

/// Arrays of arrays of arrays … deeper than this are refused.
const MAX_NESTING: u32 = 4;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes as stored: GGUF asks for UTF-8, but vocabularies exist whose pieces are not, and those must survive.
    String(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array value; all elements are of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    /// Bytes as stored, like [`Value::String`].
    String(Strings),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Type names by GGUF type id.
const TYPE_NAMES: [&str; 13] =
    ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];

impl Value {
    /// GGUF type id.
    pub fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => 8,
            Value::Array(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// The type in words: `u32`, `array of 5 strings`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(a) => format!("array of {} {}s", a.len(), TYPE_NAMES[a.type_id() as usize]),
            _ => TYPE_NAMES[self.type_id() as usize].into(),
        }
    }

    /// Any integer type, widened.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    fn read(r: &mut Reader<'_>, key: &str) -> Result<Value> {
        let what = Of(key);
        let at = r.at();
        Ok(match r.u32(format_args!("the type of {what}"))? {
            0 => Value::U8(u8::from_le_bytes(r.array(what)?)),
            1 => Value::I8(i8::from_le_bytes(r.array(what)?)),
            2 => Value::U16(u16::from_le_bytes(r.array(what)?)),
            3 => Value::I16(i16::from_le_bytes(r.array(what)?)),
            4 => Value::U32(r.u32(what)?),
            5 => Value::I32(i32::from_le_bytes(r.array(what)?)),
            6 => Value::F32(f32::from_le_bytes(r.array(what)?)),
            7 => Value::Bool(boolean(r, what)?),
            8 => Value::String(r.string(what)?.to_vec()),
            9 => Value::Array(Array::read(r, key, 1)?),
            10 => Value::U64(r.u64(what)?),
            11 => Value::I64(i64::from_le_bytes(r.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(r.array(what)?)),
            id => return r.error(at, format!("{what} is of value type {id}, which GGUF does not define")),
        })
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::String(v.into())
    }
}

impl Array {
    /// GGUF type id of the elements.
    pub fn type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::String(_) => 8,
            Array::Array(_) => 9,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }

    /// The elements, if they are integers that are not negative or truth values (as 0 and 1).
    pub fn numbers(&self) -> Option<Vec<u64>> {
        fn all<T: Copy + TryInto<u64>>(of: &[T]) -> Option<Vec<u64>> {
            of.iter().map(|&x| x.try_into().ok()).collect()
        }
        match self {
            Array::U8(x) => all(x),
            Array::I8(x) => all(x),
            Array::U16(x) => all(x),
            Array::I16(x) => all(x),
            Array::U32(x) => all(x),
            Array::I32(x) => all(x),
            Array::U64(x) => all(x),
            Array::I64(x) => all(x),
            Array::Bool(x) => Some(x.iter().map(|&x| u64::from(x)).collect()),
            Array::F32(_) | Array::F64(_) | Array::String(_) | Array::Array(_) => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::Array(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Integer elements, widened; `None` for other element types.
    fn integers(&self) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        Some(match self {
            Array::U8(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::I8(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::U16(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::I16(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::U32(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::I32(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::U64(v) => Box::new(v.iter().map(|&x| x.into())),
            Array::I64(v) => Box::new(v.iter().map(|&x| x.into())),
            _ => return None,
        })
    }

    fn read(r: &mut Reader<'_>, key: &str, depth: u32) -> Result<Array> {
        let what = Of(key);
        let at = r.at();
        if depth > MAX_NESTING {
            return r.error(at, format!("{what} nests arrays more than {MAX_NESTING} deep"));
        }
        let id = r.u32(format_args!("the element type of {what}"))?;
        // A nested array takes at least its element type and its count, a string its length.
        let min_bytes = match id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            8 | 10..=12 => 8,
            _ => return r.error(at, format!("{what} is an array of value type {id}, which GGUF does not define")),
        };
        let n = r.count(min_bytes, usize::MAX, format_args!("elements of {what}"))?;
        Ok(match id {
            0 => Array::U8(r.many(n, what, u8::from_le_bytes)?),
            1 => Array::I8(r.many(n, what, i8::from_le_bytes)?),
            2 => Array::U16(r.many(n, what, u16::from_le_bytes)?),
            3 => Array::I16(r.many(n, what, i16::from_le_bytes)?),
            4 => Array::U32(r.many(n, what, u32::from_le_bytes)?),
            5 => Array::I32(r.many(n, what, i32::from_le_bytes)?),
            6 => Array::F32(r.many(n, what, f32::from_le_bytes)?),
            7 => Array::Bool(collect(n, || boolean(r, what))?),
            8 => Array::String((0..n).map(|_| r.string(what)).collect::<Result<_>>()?),
            9 => Array::Array(collect(n, || Array::read(r, key, depth + 1))?),
            10 => Array::U64(r.many(n, what, u64::from_le_bytes)?),
            11 => Array::I64(r.many(n, what, i64::from_le_bytes)?),
            _ => Array::F64(r.many(n, what, f64::from_le_bytes)?),
        })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Array {
    /// An array of strings.
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        Array::String(iter.into_iter().collect())
    }
}

fn collect<T>(n: usize, mut get: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..n).map(|_| get()).collect()
}

fn boolean(r: &mut Reader<'_>, what: Of<'_>) -> Result<bool> {
    let at = r.at();
    match r.array(what)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [b] => r.error(at, format!("{what} is a bool of value {b}, neither 0 nor 1")),
    }
}

/// "metadata key 'x'" in messages.
#[derive(Clone, Copy)]
struct Of<'a>(&'a str);

impl std::fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metadata key {}", quoted(self.0))
    }
}

/// Keys and values in file order; keys are UTF-8 and unique.
///
/// Each getter `x(key)` fails when the key is missing or of another type, naming both; `opt_x(key)` gives `None` when
/// it is missing and still fails when it is of another type.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt:ident -> $ty:ty, $wanted:literal, |$value:ident| $get:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self, key: &str) -> Result<$ty> {
            self.$opt(key)?.ok_or_else(|| Error::malformed(format!("{} is missing", Of(key))))
        }

        #[doc = concat!("[`Metadata::", stringify!($name), "`], or `None` if the key is missing.")]
        pub fn $opt(&self, key: &str) -> Result<Option<$ty>> {
            let Some($value) = self.get(key) else { return Ok(None) };
            match $get {
                Some(v) => Ok(Some(v)),
                None => Err(Error::malformed(format!("{} is {}, not {}", Of(key), describe($value), $wanted))),
            }
        }
    )* };
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry, or replaces the value of an existing one in place.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.index.get(&key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
        self
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    getters! {
        /// A string; it must be UTF-8.
        str, opt_str -> &str, "a UTF-8 string", |v| match v {
            Value::String(s) => std::str::from_utf8(s).ok(),
            _ => None,
        };
        /// Any integer type, if the value fits in a u32.
        u32, opt_u32 -> u32, "an integer from 0 to 2^32 - 1", |v| v.integer().and_then(|i| i.try_into().ok());
        /// Any integer type, if the value fits in a u64.
        u64, opt_u64 -> u64, "an integer from 0 to 2^64 - 1", |v| v.integer().and_then(|i| i.try_into().ok());
        /// f32, or f64 rounded.
        f32, opt_f32 -> f32, "a float", |v| match *v {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        };
        /// A bool.
        bool, opt_bool -> bool, "a bool", |v| match *v {
            Value::Bool(b) => Some(b),
            _ => None,
        };
        /// An array of strings, as stored: not necessarily UTF-8.
        strings, opt_strings -> &Strings, "an array of strings", |v| match v {
            Value::Array(Array::String(s)) => Some(s),
            _ => None,
        };
        /// An array of any integer type whose values fit in i32.
        i32s, opt_i32s -> Vec<i32>, "an array of integers from -2^31 to 2^31 - 1", |v| match v {
            Value::Array(a) => a.integers().and_then(|i| i.map(|x| x.try_into().ok()).collect()),
            _ => None,
        };
        /// An array of any integer type whose values fit in u32.
        u32s, opt_u32s -> Vec<u32>, "an array of integers from 0 to 2^32 - 1", |v| match v {
            Value::Array(a) => a.integers().and_then(|i| i.map(|x| x.try_into().ok()).collect()),
            _ => None,
        };
        /// An array of floats; f64 is rounded.
        f32s, opt_f32s -> Vec<f32>, "an array of floats", |v| match v {
            Value::Array(Array::F32(x)) => Some(x.clone()),
            Value::Array(Array::F64(x)) => Some(x.iter().map(|&x| x as f32).collect()),
            _ => None,
        };
        /// An array of bools.
        bools, opt_bools -> &[bool], "an array of bools", |v| match v {
            Value::Array(Array::Bool(b)) => Some(b.as_slice()),
            _ => None,
        };
    }

    /// Reads `count` entries.
    pub(super) fn read(r: &mut Reader<'_>, count: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        for i in 0..count {
            let at = r.at();
            let key = r.utf8(format_args!("the name of metadata key {i}"))?;
            if metadata.index.contains_key(key) {
                return r.error(at, format!("{} occurs twice", Of(key)));
            }
            metadata.insert(key, Value::read(r, key)?);
        }
        Ok(metadata)
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut metadata = Metadata::new();
        for (k, v) in iter {
            metadata.insert(k, v);
        }
        metadata
    }
}

/// The type, and for integers the value: what a type error shows.
fn describe(v: &Value) -> String {
    match (v, v.integer()) {
        (_, Some(i)) => format!("{i} ({})", v.type_name()),
        (Value::String(s), _) if std::str::from_utf8(s).is_err() => "a string that is not UTF-8".into(),
        _ => format!("of type {}", v.type_name()),
    }
}
