//! The state of the terminal.

use std::mem::zeroed;

/// How the terminal of standard input shows and passes on what is typed.
#[derive(Clone, Copy)]
pub struct Terminal(libc::termios);

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

impl Terminal {
    /// Its state now; `None` if standard input is none.
    pub fn now() -> Option<Terminal> {
        // SAFETY: a termios is plain data, for which zero is valid; the call writes no more than that.
        let (failed, state) = unsafe {
            let mut state: libc::termios = zeroed();
            (libc::tcgetattr(libc::STDIN_FILENO, &mut state) != 0, state)
        };
        (!failed).then_some(Terminal(state))
    }

    /// Brings that state back.
    pub fn restore(&self) {
        // SAFETY: the call reads a termios that `now` has filled. A refusal is ignored: there is no terminal then.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.0) };
    }
}
