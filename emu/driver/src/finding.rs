//! Findings: what a program does wrong and no driver would say. Each is one line on stderr, and ends the process unless the
//! settings are not strict. Remarks are lines that begin otherwise, about what the stand-in does not do.

/// What each finding begins with.
const FINDING: &str = "libcuda stand-in:";
/// What each remark begins with.
const REMARK: &str = "libcuda (stand-in) remarks:";
/// The exit status of a process that findings end.
pub(crate) const STATUS: i32 = 70;

/// Says what is wrong.
pub(crate) fn say(what: &str) {
    eprintln!("{FINDING} {}", one_line(what));
}

/// Says what is not an error of the program.
pub(crate) fn remark(what: &str) {
    eprintln!("{REMARK} {}", one_line(what));
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Ends the process without its clean-up, which would call the driver.
pub(crate) fn end() -> ! {
    // SAFETY: flushes what the process has printed, and exits.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::_exit(STATUS)
    }
}
