//! Running `rigc` in tests.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command.
pub fn rigc<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigc"));
    command.args(args);
    command
}

/// Its standard output, after it ended with 0.
pub fn succeeds(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}\n{}", out.status, stderr(&out));
    String::from_utf8(out.stdout).unwrap()
}

/// The one JSON object on its standard output.
pub fn json(command: &mut Command) -> serde_json::Value {
    serde_json::from_str(&succeeds(command)).unwrap()
}

/// Its sentence on standard error, after it ended with 2 and printed nothing else.
pub fn refused(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = stderr(&out);
    assert_eq!(out.status.code(), Some(2), "{command:?}: {text}");
    assert_eq!((out.stdout.len(), text.lines().count()), (0, 1), "{command:?}: {text}");
    text
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The demo model as a file.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bard-q4_k_m.gguf")
}
