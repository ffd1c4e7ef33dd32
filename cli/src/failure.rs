//! From errors to a sentence and an exit code: 2 for what the user can mend, 1 for what rigc got wrong.

use crate::output::note;
use ir::quote;
use std::path::Path;
use std::process::ExitCode;

/// Exit code of an interrupted command.
pub const INTERRUPTED: u8 = 130;

/// Most characters of a sentence: names in it may be long.
const SENTENCE: usize = 2000;

/// Bad usage that the argument parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A usage error.
pub fn usage(what: impl Into<String>) -> anyhow::Error {
    Usage(what.into()).into()
}

/// Prints the error and gives its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    note!("rigc: {}", quote::plain(error.to_string().trim_end(), SENTENCE));
    ExitCode::from(code(error))
}

/// Says that a file was cut short, or that its disk failed, while it was read, and gives the exit code.
pub fn lost_file(path: &Path) -> i32 {
    let path = quote::plain(&path.to_string_lossy(), SENTENCE);
    note!("rigc: {path} was cut short while it was in use, or its disk fails; run again with the whole file");
    2
}

/// Whether nobody reads the output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn code(error: &anyhow::Error) -> u8 {
    let internal = |e: &ir::Error| matches!(e, ir::Error::Verify { .. });
    match (error.downcast_ref::<runtime::Error>(), error.downcast_ref::<ir::Error>()) {
        (Some(runtime::Error::Ir(e)), _) | (_, Some(e)) if internal(e) => 1,
        (Some(_), _) | (_, Some(_)) => 2,
        _ if error.is::<Usage>() || error.is::<std::io::Error>() => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_gives_the_code() {
        assert_eq!(code(&usage("no prompt")), 2);
        assert_eq!(code(&ir::Error::malformed("a bad file").into()), 2);
        assert_eq!(code(&ir::Error::verify("kernel", "a bug").into()), 1);
        assert_eq!(code(&runtime::Error::Ir(ir::Error::verify("kernel", "a bug")).into()), 1);
        assert_eq!(code(&runtime::Error::input("a bad file").into()), 2);
        assert_eq!(code(&anyhow::anyhow!("anything else")), 1);
    }
}
