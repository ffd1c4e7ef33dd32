//! Whether standard input has something to read.

/// How long a pipe may take to give its first byte, in milliseconds.
const WAIT: libc::c_int = 200;

/// Whether standard input is a file or a pipe with something to read now or soon. Of a terminal, a device or a socket
/// nothing is expected; a pipe that nobody writes to and nobody closes does not hold up the caller.
pub fn has_more() -> bool {
    // SAFETY: all zeros are a value of this struct of integers, and `fstat` fills what it is given.
    let (stat, stated) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        let stated = libc::fstat(libc::STDIN_FILENO, &mut stat);
        (stat, stated)
    };
    match stat.st_mode & libc::S_IFMT {
        _ if stated != 0 => false,
        libc::S_IFREG => true,
        libc::S_IFIFO => {
            let mut poll = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor is given, for as long as the call takes.
            let ready = unsafe { libc::poll(&mut poll, 1, WAIT) };
            ready == 1 && poll.revents & libc::POLLIN != 0
        }
        _ => false,
    }
}
