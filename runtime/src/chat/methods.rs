//! Methods of Python's strings that templates use and `minijinja_contrib::pycompat` does not have.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// Answers a method call on a value.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let done = value.as_str().map(|text| on_text(text, method, args)).transpose()?.flatten();
    done.map_or_else(|| minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args), Ok)
}

fn on_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,) = from_args(args)?;
            let parts = text.split_once(some(separator)?);
            triple(parts.map_or([text, "", ""], |(left, right)| [left, separator, right]))
        }
        "rpartition" => {
            let (separator,) = from_args(args)?;
            let parts = text.rsplit_once(some(separator)?);
            triple(parts.map_or(["", "", text], |(left, right)| [left, separator, right]))
        }
        "rsplit" => {
            let (separator, most): (&str, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), some(separator)?).collect();
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        _ => return Ok(None),
    }))
}

/// A separator, which must not be empty.
fn some(separator: &str) -> Result<&str, Error> {
    let empty = || Error::new(ErrorKind::InvalidOperation, "the separator is empty");
    Some(separator).filter(|s| !s.is_empty()).ok_or_else(empty)
}

fn triple(parts: [&str; 3]) -> Value {
    parts.into_iter().map(Value::from).collect()
}
