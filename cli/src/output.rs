//! Writing to stdout, where a closed pipe is an error like any other and not a panic.

use std::io::Write;

/// Writes all of `text` now.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
