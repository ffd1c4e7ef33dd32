//! Limits of this process on itself.

use std::io::{Error, Result};

/// From now on this process may have this many bytes of addresses, and ends by a signal after this many seconds of
/// computing; it leaves no core file.
///
/// # Errors
/// That of the system, if it refuses a limit. A lower limit that is there already stays.
pub fn confine(memory: u64, seconds: u64) -> Result<()> {
    for (resource, most) in [(libc::RLIMIT_AS, memory), (libc::RLIMIT_CPU, seconds), (libc::RLIMIT_CORE, 0)] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls touch the structure that they are given, and it outlives them.
        let done = unsafe {
            libc::getrlimit(resource, &mut limit) == 0 && {
                limit.rlim_cur = limit.rlim_cur.min(most);
                libc::setrlimit(resource, &limit) == 0
            }
        };
        if !done {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}
