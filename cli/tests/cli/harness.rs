//! Runs the program and looks at what it prints.

use ir::gguf::{Value, Writer};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use tests::synthetic::{Synthetic, zoo};

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("stdout is UTF-8")
    }

    /// Standard output as one JSON object.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// The program, in a folder.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigc"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a started program.
pub fn wait(child: Child) -> Outcome {
    let output = child.wait_with_output().expect("the program can be waited for");
    let err = String::from_utf8(output.stderr).expect("stderr is UTF-8");
    assert!(!err.contains("panicked"), "{err}");
    Outcome { code: output.status.code(), out: output.stdout, err }
}

/// Runs the program in a folder, with nothing to read.
pub fn rigc(dir: &Path, args: &[&str]) -> Outcome {
    wait(command(dir, args).spawn().expect("the program starts"))
}

/// Runs the program with this on its standard input.
pub fn rigc_reading(dir: &Path, args: &[&str], input: &[u8]) -> Outcome {
    let mut child = command(dir, args).stdin(Stdio::piped()).spawn().expect("the program starts");
    // A program that refuses its arguments need not read.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    wait(child)
}

/// Checks that a command fails with exit code 2, one sentence on stderr that has all of `words`, and nothing on stdout.
#[track_caller]
pub fn check_refused(dir: &Path, args: &[&str], words: &[&str]) {
    println!("rigc {args:?}");
    let o = rigc(dir, args);
    assert!(o.out.is_empty(), "stdout '{}'", String::from_utf8_lossy(&o.out));
    check_said(&o, words);
}

/// Checks that a command failed with exit code 2 and, after warnings, one sentence on stderr that has all of `words`.
#[track_caller]
pub fn check_said(o: &Outcome, words: &[&str]) {
    let said = format!("{:?}, stderr '{}'", o.code, o.err);
    assert_eq!(o.code, Some(2), "{said}");
    let lines: Vec<&str> = o.err.lines().skip_while(|line| line.starts_with("warning: ")).collect();
    let &[line] = lines.as_slice() else { panic!("{said}") };
    assert!(line.starts_with("rigc: ") && o.err.ends_with('\n'), "{said}");
    assert!(line.len() < 600 && !line.contains(char::is_control), "{said}");
    for word in words {
        assert!(line.contains(word), "'{word}' is not in: {said}");
    }
}

/// Sends Ctrl-C to a program.
pub fn interrupt(child: &Child) {
    signal(child, "INT");
}

/// Sends a signal to a program.
pub fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A folder with `m.gguf`, a small model of random weights, and `demo.rig`, the compiled demo model with its weights
/// beside it. Tests may run in processes of their own: the first makes it, for as long as program and tests stay the same.
pub fn shared() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        std::fs::create_dir_all(&dir).unwrap();
        let lock = std::fs::File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let programs = [PathBuf::from(env!("CARGO_BIN_EXE_rigc")), std::env::current_exe().unwrap()];
        let times = programs.map(|p| std::fs::metadata(p).unwrap().modified().unwrap());
        let (made, by) = (dir.join("made"), format!("{times:?}"));
        if std::fs::read_to_string(&made).is_ok_and(|text| text == by) {
            return dir;
        }
        std::fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bard-q4_k_m.gguf");
        std::fs::copy(demo, dir.join("demo.gguf")).unwrap();
        let o = rigc(&dir, &["compile", "demo.gguf", "-o", "demo.rig"]);
        assert_eq!(o.code, Some(0), "{}", o.err);
        std::fs::write(made, by).unwrap();
        dir
    });
    &DIR
}

/// A small model that is quick to compile.
pub fn small() -> Synthetic {
    Synthetic { layers: 1, vocab: 300, ..zoo()[0].1.clone() }
}

/// A GGUF file with other metadata: keys that are new or have another value.
pub fn changed(file: &[u8], change: &[(&str, Value)]) -> Vec<u8> {
    let header = ir::gguf::parse(file).unwrap();
    let mut writer = Writer::new(header.metadata.clone());
    for (key, value) in change {
        writer.metadata.insert(*key, value.clone());
    }
    let data = header.tensors.iter().map(|t| {
        writer.tensor(&t.name, t.shape(), t.format().unwrap());
        &file[t.offset as usize..][..t.bytes as usize]
    });
    let data: Vec<&[u8]> = data.collect();
    writer.to_vec(&data).unwrap()
}

/// Names in a folder, hidden ones too.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
