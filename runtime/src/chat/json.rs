//! The filter `tojson` as Hugging Face's renderer has it: `json.dumps` of Python, which by default leaves characters
//! as they are.

use super::jinja::BYTES_MAX;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// Bytes of a result for one fuel.
const BYTES_PER_FUEL: usize = 16;
/// Most spaces for a level.
const INDENT_MAX: usize = 64;

/// The arguments of `json.dumps`.
#[derive(Clone, Copy)]
struct Python<'a> {
    /// Between elements, and between a key and its value.
    separators: (&'a str, &'a str),
    /// Spaces for a level; `None`: all in one line.
    indent: Option<usize>,
    ascii: bool,
    /// Open arrays and objects.
    depth: usize,
    /// Whether the innermost one has an element.
    filled: bool,
}

impl Python<'_> {
    fn open<W: ?Sized + Write>(&mut self, w: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        w.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, w: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(w)?;
        }
        self.filled = true;
        w.write_all(bracket)
    }

    fn element<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if !first {
            w.write_all(self.separators.0.as_bytes())?;
        }
        self.filled = true;
        self.line(w)
    }

    fn line<W: ?Sized + Write>(&self, w: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        w.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| w.write_all(&[b' '; INDENT_MAX][..indent]))
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.open(w, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.close(w, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.element(w, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.open(w, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.close(w, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.element(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(self.separators.1.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, w: &mut W, value: f64) -> io::Result<()> {
        w.write_all(number(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ascii {
            return w.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(byte) => w.write_all(&[byte])?,
                None => write!(w, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

/// A finite number as Python writes it: exponents have a sign and two digits, and begin at 1e16.
pub(super) fn number(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{value:?}"),
    }
}

/// Text of at most [`BYTES_MAX`]: a small value that holds another many times over can be a long text.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > BYTES_MAX - self.0.len() {
            return Err(io::Error::other("the text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `value|tojson`, with the arguments `indent`, `separators`, `ensure_ascii` and `sort_keys`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let flag = |name: &str| options.get::<Option<bool>>(name).map(Option::unwrap_or_default);
    let (ascii, sorted) = (flag("ensure_ascii")?, flag("sort_keys")?);
    let indent = indent.map_or_else(|| options.get::<Option<usize>>("indent"), |n| Ok(Some(n)))?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let separators = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([element, key]) => (element.as_str(), key.as_str()),
        Some(_) => return Err(failed(&"separators are two texts")),
    };
    let indent = indent.map(|n| n.min(INDENT_MAX));
    let form = Python { separators, indent, ascii, depth: 0, filled: false };
    let text = if sorted {
        // By way of bounded text, as values of the template may share parts.
        let text = write(value, form)?;
        let mut value: Json = serde_json::from_slice(&text).map_err(|e| failed(&e))?;
        value.sort_all_objects();
        write(&value, form)?
    } else {
        write(value, form)?
    };
    state.consume_fuel((text.len() / BYTES_PER_FUEL) as u64)?;
    Ok(Value::from(String::from_utf8_lossy(&text).into_owned()))
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"))
}

fn write(value: &impl Serialize, form: Python<'_>) -> Result<Vec<u8>, Error> {
    let mut out = Bounded::default();
    value.serialize(&mut Serializer::with_formatter(&mut out, form)).map_err(|e| failed(&e))?;
    Ok(out.0)
}
