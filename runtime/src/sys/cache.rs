//! The page cache: what of a file it holds, what to bring to it and what to drop; and descriptors that read past it.
//!
//! Everything but the descriptor is advice or a question, so failing changes speed alone.

use super::arena::page_size;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// What places, lengths and addresses of direct reads are multiples of.
pub const DIRECT_ALIGN: usize = 4096;

/// Another descriptor of an open file, whose reads go past the page cache; `None` where the file system refuses that.
pub fn open_direct(file: &File) -> Option<File> {
    // By its descriptor: the name may be another file's by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path).ok()
}

/// Whether [`resident`] tells the truth about a file: to others than its owner and those who may write it, the system
/// says that all of it is there.
pub fn tells_residents(file: &File) -> bool {
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    // SAFETY: the calls have no preconditions but that the path ends with a zero byte and outlives them.
    let (user, writable) = unsafe { (libc::geteuid(), libc::access(path.as_ptr().cast(), libc::W_OK) == 0) };
    user == 0 || writable || file.metadata().is_ok_and(|m| m.uid() == user)
}

/// Whether all pages of a mapped file that hold `bytes` are in memory.
pub fn resident(bytes: &[u8]) -> bool {
    const PAGES: usize = 1024;
    let page = page_size();
    let start = bytes.as_ptr() as usize / page * page;
    let end = bytes.as_ptr() as usize + bytes.len();
    let mut there = [0u8; PAGES];
    bytes.is_empty()
        || (start..end).step_by(PAGES * page).all(|at| {
            let len = (end - at).min(PAGES * page);
            // SAFETY: the pages of `at .. at + len` are mapped, as they hold a part of `bytes`; the call reads none of them
            // and writes a byte for each, of which there is room for PAGES.
            let told = unsafe { libc::mincore(at as *mut _, len, there.as_mut_ptr()) == 0 };
            told && there[..len.div_ceil(page)].iter().all(|page| page & 1 == 1)
        })
}

/// Asks the system to bring `bytes` bytes from `offset` of a file to the page cache.
pub fn prefetch(file: &File, offset: u64, bytes: usize) {
    advise(file, offset, bytes, libc::POSIX_FADV_WILLNEED);
}

/// Drops the pages that hold `bytes` bytes from `offset` of a file from the page cache, but for those that somebody maps or
/// that are not on disk yet.
pub fn drop_cached(file: &File, offset: u64, bytes: usize) {
    let skipped = offset as usize % page_size();
    let bytes = (bytes + skipped).next_multiple_of(page_size());
    advise(file, offset - skipped as u64, bytes, libc::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, offset: u64, bytes: usize, advice: libc::c_int) {
    let (Ok(offset), Ok(bytes)) = (offset.try_into(), bytes.try_into()) else { return };
    // SAFETY: the call has no preconditions.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Mapping;
    use std::io::Write;

    #[test]
    fn what_is_dropped_is_not_resident() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 6 << 20]).unwrap();
        file.as_file().sync_all().unwrap();
        assert!(tells_residents(file.as_file()));
        let map = Mapping::open(file.path()).unwrap();
        let page = page_size();
        assert!(resident(map.bytes()) && resident(&map.bytes()[5..9]) && resident(&[]));
        drop_cached(file.as_file(), 0, 6 << 20);
        if resident(&map.bytes()[..page]) {
            // A file system in memory.
            return;
        }
        assert!(!resident(map.bytes()) && !resident(&map.bytes()[page + 7..page + 8]));
        prefetch(file.as_file(), 0, 6 << 20);
        let touched: u64 = map.bytes().iter().map(|&b| u64::from(b)).sum();
        assert_eq!(touched, 7 * (6 << 20));
        assert!(resident(map.bytes()));
    }
}
