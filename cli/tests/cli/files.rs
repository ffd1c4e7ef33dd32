//! Files that cannot be read or written, or that change while they are in use: one sentence each.

use crate::harness::{check_refused, check_said, command, interrupt, names, rigc, shared, small, wait};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use tests::synthetic::Synthetic;

#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
    let o = rigc(dir, &["compile", "m.gguf"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let pipe = |path: &str| assert!(Command::new("mkfifo").arg(dir.join(path)).status().unwrap().success());
    fs::write(dir.join("text"), "text").unwrap();
    pipe("pipe.gguf");
    for (args, words) in [
        (&["run", "pipe.gguf", "x"][..], &["pipe.gguf is not a regular file"][..]),
        (&["inspect", "pipe.gguf"], &["pipe.gguf is not a regular file"]),
        (&["compile", "pipe.gguf"], &["pipe.gguf is not a regular file"]),
        (&["perplexity", "pipe.gguf", "text"], &["pipe.gguf is not a regular file"]),
        (&["run", "/dev/zero", "x"], &["/dev/zero is not a regular file"]),
        (&["run", "/dev/null", "x"], &["/dev/null is not a regular file"]),
        (&["perplexity", "m.gguf", "/dev/zero"], &["/dev/zero has more than", "bytes of text"]),
        (&["run", "m.gguf", "-f", "."], &["directory"]),
    ] {
        check_refused(dir, args, words);
    }
    let module = names(&dir.join("m.rig")).into_iter().find(|n| n != "manifest.ron").unwrap();
    let module = format!("m.rig/{module}");
    fs::remove_file(dir.join(&module)).unwrap();
    pipe(&module);
    check_refused(dir, &["run", "m.rig", "x"], &[&module, "is not a regular file"]);
    fs::remove_file(dir.join("m.gguf")).unwrap();
    pipe("m.gguf");
    check_refused(dir, &["inspect", "m.gguf"], &["m.gguf is not a regular file"]);
}

/// As a user who may not read it: tests may run as one who may read everything.
#[test]
fn what_may_not_be_read() {
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(dir, 0o755);
    let program = dir.join("rigc");
    fs::copy(env!("CARGO_BIN_EXE_rigc"), &program).unwrap();
    let (closed, folder) = (dir.join("closed.gguf"), dir.join("closed"));
    fs::write(&closed, small().gguf()).unwrap();
    mode(&closed, 0o000);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("m.gguf"), small().gguf()).unwrap();
    mode(&folder, 0o000);
    let root = File::open(&closed).is_ok();
    for (args, words) in [
        (&["run", "closed.gguf", "x"][..], "closed.gguf cannot be read by this user"),
        (&["inspect", "closed.gguf"], "closed.gguf cannot be read by this user"),
        (&["inspect", "closed/m.gguf"], "closed/m.gguf cannot be read by this user"),
        (&["run", "-f", "closed.gguf"], "closed.gguf"),
    ] {
        let mut command = Command::new(&program);
        command.args(args).current_dir(dir).stdin(std::process::Stdio::null());
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{args:?}: {said}");
    }
    mode(&folder, 0o755);
}

/// A run without end of a model whose embedding table is read in the file, after its first text.
fn running(dir: &Path) -> Child {
    let spec = Synthetic { context: 1 << 20, vocab: 8192, ..small() };
    fs::write(dir.join("m.gguf"), spec.gguf()).unwrap();
    let args = ["run", "m.gguf", "a", "--ctx", "262144", "-n", "200000", "--ignore-eos", "--temp", "5", "--top-k", "0"];
    let mut child = command(dir, &args).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn cut_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let child = running(dir.path());
    File::options().write(true).open(dir.path().join("m.gguf")).unwrap().set_len(4096).unwrap();
    check_said(&wait(child), &["m.gguf was cut short while it was in use"]);
}

#[test]
fn changed_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let child = running(dir.path());
    let mut file = File::options().write(true).open(dir.path().join("m.gguf")).unwrap();
    file.seek(std::io::SeekFrom::End(-1)).unwrap();
    file.write_all(b"x").unwrap();
    interrupt(&child);
    check_said(&wait(child), &["m.gguf was changed while it was in use"]);
}

/// Another file of the same name is not the one that runs.
#[test]
fn replaced_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let child = running(dir.path());
    fs::write(dir.path().join("other"), "other").unwrap();
    fs::rename(dir.path().join("other"), dir.path().join("m.gguf")).unwrap();
    interrupt(&child);
    let o = wait(child);
    assert_eq!(o.code, Some(130), "{}", o.err);
    assert!(o.err.contains("stopped by interrupted"), "{}", o.err);
}

/// A disk without room for the artifact, and a limit on file sizes, which comes as a signal.
#[test]
fn full_disk_while_compiling() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
    fs::create_dir(dir.join("disk")).unwrap();
    let program = env!("CARGO_BIN_EXE_rigc");
    let script = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir);
        wait(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap())
    };
    let limited = script("sh", &["-c", "ulimit -f 8; exec \"$0\" compile m.gguf", program]);
    check_said(&limited, &["m.rig cannot be written", "File too large", "limit on file sizes"]);
    assert_eq!(names(dir), ["disk", "m.gguf"]);

    let mount = "mount -t tmpfs -o size=16k none disk";
    if script("unshare", &["-rm", "sh", "-c", mount]).code != Some(0) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    // What is left on the disk comes on stdout.
    let compile = format!("{mount} && {{ \"$0\" compile m.gguf -o disk/m.rig; code=$?; ls -A disk; exit $code; }}");
    let full = script("unshare", &["-rm", "sh", "-c", &compile, program]);
    check_said(&full, &["disk/m.rig cannot be written", "No space left on device", "make room"]);
}

/// Whenever Ctrl-C comes, the artifact is there whole or not at all, and nothing else is.
#[test]
fn interrupted_while_compiling() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::copy(shared().join("demo.gguf"), dir.join("m.gguf")).unwrap();
    for delay in [30, 80, 150, 300, 500, 800] {
        let child = command(dir, &["compile", "m.gguf"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        interrupt(&child);
        let o = wait(child);
        // Before the program looks at signals, Ctrl-C ends it as any other.
        assert!(matches!(o.code, Some(130 | 0) | None), "{:?}: {}", o.code, o.err);
        let whole = names(dir) == ["m.gguf", "m.rig"];
        assert!(whole || names(dir) == ["m.gguf"], "{:?}", names(dir));
        assert!(whole || o.code != Some(0), "it says that it wrote what is not there");
        if whole {
            check_whole(dir);
            fs::remove_dir_all(dir.join("m.rig")).unwrap();
        }
    }
}

fn check_whole(dir: &Path) {
    let o = rigc(dir, &["inspect", "m.rig"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
}
