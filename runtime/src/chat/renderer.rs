//! Renders templates in a process of its own: [`Renderer`] starts it, [`serve`] is what it does.
//!
//! A template is a program from a file, and its values can need any amount of memory, stack and time. Invariant:
//! whatever a template does, its process ends soon, and the process that asked has a text of bounded length or a reason.
//! Next hop: `forms`.

use super::jinja::Program;
use super::{DateTime, Message, SpecialTexts, forms};
use crate::sys::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Memory of the process in bytes: for itself, and for each byte of the request.
const MEMORY: (u64, u64) = (512 << 20, 16);
/// Stack for compiling and rendering, bytes.
const STACK: usize = 64 << 20;
/// Seconds of computing, and bytes of the request for a second more.
const SECONDS: (u64, u64) = (2, 16 << 20);
/// Longest text: in any case, and for each byte of the request.
const TEXT: (u64, u64) = (16 << 20, 4);
/// How much longer than its computing the process may take, on a machine that has other work.
const PATIENCE: u32 = 10;

/// What the first byte of an answer says about the rest.
const IS_TEXT: u8 = b'T';
const IS_REASON: u8 = b'E';

/// A template, and what to render.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request<'a> {
    /// The template's source.
    pub source: Cow<'a, str>,
    /// Texts of special tokens.
    pub special: Cow<'a, SpecialTexts>,
    /// What the template takes for the time.
    pub now: DateTime,
    /// The conversation; without one, the template is only compiled.
    pub ask: Option<Ask<'a>>,
}

/// A conversation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask<'a> {
    /// Its messages.
    pub messages: Cow<'a, [Message]>,
    /// Whether the text ends with the begin of the assistant's turn.
    pub add_generation_prompt: bool,
    /// A list of what the model may call.
    pub tools: Option<Cow<'a, Json>>,
}

/// The command that runs [`serve`].
#[derive(Debug, Clone)]
pub struct Renderer {
    program: PathBuf,
    args: Vec<OsString>,
}

/// A child that does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended and been waited for, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Renderer {
    /// The command `program args`, which has to run [`serve`] and nothing else.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Renderer {
        Renderer { program: program.into(), args: args.into_iter().map(Into::into).collect() }
    }

    /// The text that is asked for, empty if none is.
    ///
    /// # Errors
    /// Why there is none, in a line.
    pub fn answer(&self, request: &Request<'_>) -> Result<String, String> {
        let request = serde_json::to_vec(request).map_err(|e| e.to_string())?;
        let patience = Duration::from_secs(seconds(request.len() as u64)) * PATIENCE;
        let (answer, status) = self.exchange(&request, patience).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "it takes too much time".to_owned(),
            _ => format!("{}, which renders it, cannot be used: {e}", self.program.display()),
        })?;
        let most = TEXT.0 + TEXT.1 * request.len() as u64;
        match (status.signal(), answer.split_first()) {
            (Some(libc::SIGXCPU), _) => Err("it takes too much time".into()),
            (Some(libc::SIGKILL), _) => Err("it takes too much time or memory".into()),
            (Some(_), _) => Err("it takes too much memory, or nests too deeply".into()),
            (None, Some((&kind, text))) if status.success() && [IS_TEXT, IS_REASON].contains(&kind) => {
                if text.len() as u64 > most {
                    return Err(format!("its text has more than {most} bytes"));
                }
                let text = String::from_utf8_lossy(text).into_owned();
                if kind == IS_TEXT { Ok(text) } else { Err(text) }
            }
            _ => Err(format!("{}, which renders it, ended with {status}", self.program.display())),
        }
    }

    /// Starts the process, sends `request` and receives what it answers, one byte more than the longest text at most.
    fn exchange(&self, request: &[u8], patience: Duration) -> std::io::Result<(Vec<u8>, ExitStatus)> {
        let end = Instant::now() + patience;
        let (mut ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(theirs.try_clone()?).stdout(theirs).stderr(Stdio::null());
        // Ctrl-C is for the process that asks.
        let mut child = Running(command.process_group(0).spawn()?);
        // Only the child still has the other end, whose closing ends the answer.
        drop(command);
        let left = || {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(std::io::Error::from(ErrorKind::TimedOut)) } else { Ok(Some(left)) }
        };
        ours.set_write_timeout(left()?)?;
        let sent = ours.write_all(request).and_then(|()| ours.shutdown(Shutdown::Write));
        // One that ended without reading says more by how it ended.
        if let Err(e) = sent
            && e.kind() != ErrorKind::BrokenPipe
        {
            return Err(e);
        }
        let most = TEXT.0 + TEXT.1 * request.len() as u64 + 2;
        let (mut answer, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while (answer.len() as u64) < most {
            ours.set_read_timeout(left()?)?;
            match ours.read(&mut piece) {
                Ok(0) => return Ok((answer, child.0.wait()?)),
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok((answer, child.0.wait()?)),
                Err(e) => return Err(e),
            }
        }
        Ok((answer, ExitStatus::default()))
    }
}

fn seconds(request: u64) -> u64 {
    SECONDS.0 + request / SECONDS.1
}

/// Reads a request from standard input, limits this process, and writes the answer to standard output. To be called by a
/// process that does nothing else.
pub fn serve() -> ExitCode {
    let mut request = Vec::new();
    let answer = std::io::stdin().lock().read_to_end(&mut request).and_then(|_| {
        let bytes = request.len() as u64;
        limits::confine(MEMORY.0 + MEMORY.1 * bytes, seconds(bytes))?;
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let request: Request<'_> = serde_json::from_slice(&request).map_err(|e| e.to_string())?;
            request.answer()
        })?;
        thread.join().map_err(|_| std::io::Error::other("it panicked"))
    });
    let Ok(answer) = answer else { return ExitCode::FAILURE };
    let (kind, text) = match &answer {
        Ok(text) => (IS_TEXT, text),
        Err(reason) => (IS_REASON, reason),
    };
    let mut out = std::io::stdout().lock();
    let written = out.write_all(&[kind]).and_then(|()| out.write_all(text.as_bytes())).and_then(|()| out.flush());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Request<'_> {
    /// What [`Renderer::answer`] gives, made in this process and without its limits.
    ///
    /// # Errors
    /// As there.
    pub fn answer(&self) -> Result<String, String> {
        let mut program = Program::new(&self.source, self.now)?;
        self.ask.as_ref().map_or(Ok(String::new()), |ask| forms::render(&mut program, ask, &self.special))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that do not do what they should.
    #[test]
    fn other_programs() {
        let sh = |script: &str| Renderer::new("/bin/sh", ["-c", script]);
        let special = SpecialTexts::default();
        let now = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };
        let request = Request { source: "x".into(), special: Cow::Borrowed(&special), now, ask: None };
        #[track_caller]
        fn check(renderer: Renderer, request: &Request<'_>, want: Result<&str, &str>) {
            let start = Instant::now();
            match (renderer.answer(request), want) {
                (Ok(text), Ok(want)) => assert_eq!(text, want),
                (Err(reason), Err(want)) => {
                    assert!(reason.contains(want) && reason.lines().count() == 1, "`{reason}` does not say `{want}`");
                }
                (got, want) => panic!("{got:?} instead of {want:?}"),
            }
            assert!(start.elapsed().as_secs() < 60);
        }
        check(sh("cat > /dev/null; printf Thello"), &request, Ok("hello"));
        check(sh("cat > /dev/null; printf Eno"), &request, Err("no"));
        check(sh("printf Tunread"), &request, Ok("unread"));
        check(sh("true"), &request, Err("/bin/sh, which renders it, ended with exit status: 0"));
        check(sh("printf Thalf; exit 3"), &request, Err("ended with exit status: 3"));
        check(sh("printf what"), &request, Err("/bin/sh, which renders it"));
        check(sh("kill -ABRT $$"), &request, Err("too much memory, or nests too deeply"));
        check(sh("kill -SEGV $$"), &request, Err("too much memory, or nests too deeply"));
        check(sh("kill -XCPU $$"), &request, Err("too much time"));
        check(sh("cat > /dev/null; printf T; cat /dev/zero"), &request, Err("more than"));
        check(Renderer::new("/nowhere/rigc", ["x"]), &request, Err("/nowhere/rigc, which renders it, cannot be used"));
        let long = Request { source: "x".repeat(1 << 20).into(), ..request };
        check(sh("exit 3"), &long, Err("ended with exit status: 3"));
        let (answer, start) = (sh("exec sleep 100").exchange(b"x", Duration::from_millis(200)), Instant::now());
        assert!(matches!(answer.unwrap_err().kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(start.elapsed().as_secs() < 50);
    }
}
