//! Text that the user gives: from a file or a pipe, of bounded length, UTF-8.

use crate::failure::usage;
use anyhow::Result;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

/// Most bytes of a text; more than any context holds.
const MOST: u64 = 256 << 20;

/// The text of a file, or of standard input for `-`.
pub fn file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return input();
    }
    let file = File::open(path).map_err(|e| runtime::Error::io(path, e))?;
    read(file, path)
}

/// All that comes through standard input.
pub fn input() -> Result<String> {
    read(std::io::stdin().lock(), Path::new("standard input"))
}

/// All that `source` gives; `name` stands for it in messages.
fn read(source: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(MOST + 1).read_to_end(&mut bytes).map_err(|e| runtime::Error::io(name, e))?;
    utf8(bytes, &name.display().to_string())
}

/// The next line with its end, `None` after the last; `name` stands for it in messages.
pub fn line(source: &mut impl BufRead, name: &str) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = source.take(MOST + 1).read_until(b'\n', &mut bytes);
    match read.map_err(|e| runtime::Error::io(name, e))? {
        0 => Ok(None),
        _ => utf8(bytes, name).map(Some),
    }
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    if bytes.len() as u64 > MOST {
        return Err(usage(format!("{name} has more than {MOST} bytes of text; give less")));
    }
    String::from_utf8(bytes).map_err(|e| usage(format!("{name} is not UTF-8: {}", e.utf8_error())))
}
