//! Bytes that know which of them were written: the emulator's own, or the process's, which are read and written where they
//! lie. Invariant: nobody reads a byte that was not written but as [`POISON`].

/// What unwritten memory holds.
pub(crate) const POISON: u8 = 0xa5;

/// Memory of the process that emulates a card, for kernels and copies to reach. Every access goes there at once, so that
/// each side sees what the other wrote. What the process itself does to it, by its own loads and stores, the race model
/// cannot see.
pub trait HostMemory: Send {
    /// Bytes.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads bytes that are within it.
    fn read(&self, offset: usize, out: &mut [u8]);

    /// Writes bytes that are within it.
    fn write(&mut self, offset: usize, bytes: &[u8]);
}

/// Bytes and, unless all were written, a bit for each that says so.
#[derive(Default)]
pub(crate) struct Store {
    /// Empty if the bytes are the process's.
    data: Vec<u8>,
    len: usize,
    written: Option<Vec<u64>>,
    process: Option<Box<dyn HostMemory>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

/// Words of bits and the mask in each for a range of bytes.
fn words(offset: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = offset + len;
    (offset / 64..end.div_ceil(64)).map(move |w| {
        let (from, to) = (offset.max(w * 64) - w * 64, end.min(w * 64 + 64) - w * 64);
        let ones = if to - from == 64 { u64::MAX } else { ((1 << (to - from)) - 1) << from };
        (w, ones)
    })
}

impl Store {
    /// Bytes that nobody wrote. They take memory only where they are touched.
    pub(crate) fn unwritten(bytes: usize) -> Store {
        Store { data: vec![0; bytes], len: bytes, written: Some(vec![0; bytes.div_ceil(64)]), process: None }
    }

    /// Written bytes.
    pub(crate) fn of(data: Vec<u8>) -> Store {
        Store { len: data.len(), data, written: None, process: None }
    }

    /// Bytes of the process, which count as written.
    pub(crate) fn of_process(memory: Box<dyn HostMemory>) -> Store {
        Store { data: Vec::new(), len: memory.len(), written: None, process: Some(memory) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the bytes are the process's.
    pub(crate) fn is_of_process(&self) -> bool {
        self.process.is_some()
    }

    /// Adds unwritten bytes at the end.
    pub(crate) fn grow(&mut self, bytes: usize) {
        if bytes > self.len && self.process.is_none() {
            self.data.resize(bytes, 0);
            self.len = bytes;
            if let Some(written) = &mut self.written {
                written.resize(bytes.div_ceil(64), 0);
            }
        }
    }

    /// The first unwritten byte of a range.
    pub(crate) fn first_unwritten(&self, offset: usize, len: usize) -> Option<usize> {
        let written = self.written.as_ref()?;
        words(offset, len).find_map(|(w, ones)| {
            let missing = ones & !written[w];
            (missing != 0).then(|| w * 64 + missing.trailing_zeros() as usize)
        })
    }

    /// The first written byte of a range.
    fn first_written(&self, offset: usize, len: usize) -> Option<usize> {
        let Some(written) = &self.written else { return (len > 0).then_some(offset) };
        words(offset, len).find_map(|(w, ones)| {
            let there = ones & written[w];
            (there != 0).then(|| w * 64 + there.trailing_zeros() as usize)
        })
    }

    /// Where the unwritten bytes of a range are, as pairs of offset and length, in order.
    pub(crate) fn gaps(&self, offset: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
        let (mut at, end) = (offset, offset + len);
        std::iter::from_fn(move || {
            let from = self.first_unwritten(at, end - at)?;
            at = self.first_written(from, end - from).unwrap_or(end);
            Some((from, at - from))
        })
    }

    /// Notes that a range was written.
    pub(crate) fn set_written(&mut self, offset: usize, len: usize) {
        let Some(written) = &mut self.written else { return };
        for (w, ones) in words(offset, len) {
            written[w] |= ones;
        }
    }

    /// Notes that nobody wrote a range. Bytes of the process stay written.
    pub(crate) fn set_unwritten(&mut self, offset: usize, len: usize) {
        if self.process.is_some() {
            return;
        }
        let bytes = self.len;
        let written = self.written.get_or_insert_with(|| vec![u64::MAX; bytes.div_ceil(64)]);
        for (w, ones) in words(offset, len) {
            written[w] &= !ones;
        }
    }

    /// An integer of 1, 2, 4 or 8 bytes.
    #[inline]
    pub(crate) fn get(&self, offset: usize, bytes: u32) -> u64 {
        let Some(at) = self.data.get(offset..offset + bytes as usize) else { return self.pull(offset, bytes) };
        match bytes {
            1 => u64::from(at[0]),
            2 => u64::from(u16::from_le_bytes(at.try_into().unwrap_or_default())),
            4 => u64::from(u32::from_le_bytes(at.try_into().unwrap_or_default())),
            _ => u64::from_le_bytes(at.try_into().unwrap_or_default()),
        }
    }

    #[cold]
    fn pull(&self, offset: usize, bytes: u32) -> u64 {
        let mut word = [0; 8];
        self.read(offset, &mut word[..bytes as usize]);
        u64::from_le_bytes(word)
    }

    /// An integer of up to 8 bytes, whose unwritten bytes are what `undefined` makes of their place.
    pub(crate) fn get_partly(&self, offset: usize, bytes: u32, undefined: impl Fn(usize) -> u8) -> u64 {
        (0..bytes as usize).rev().fold(0, |value, i| {
            let at = offset + i;
            let unwritten = self.first_unwritten(at, 1).is_some();
            value << 8 | if unwritten { u64::from(undefined(at)) } else { self.get(at, 1) }
        })
    }

    /// Stores an integer of up to 8 bytes.
    #[inline]
    pub(crate) fn put(&mut self, offset: usize, bytes: u32, value: u64) {
        let n = bytes as usize;
        let value = value.to_le_bytes();
        match self.data.get_mut(offset..offset + n) {
            Some(at) => at.copy_from_slice(&value[..n]),
            None => self.write(offset, &value[..n]),
        }
    }

    /// The bytes of a range, if they are not the process's.
    pub(crate) fn slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.data.get(offset..offset + len)
    }

    /// Reads a range.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        match &self.process {
            Some(memory) => memory.read(offset, out),
            None => out.copy_from_slice(&self.data[offset..offset + out.len()]),
        }
    }

    /// A copy of a range.
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(offset, &mut out);
        out
    }

    /// Writes a range, without noting that.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        match &mut self.process {
            Some(memory) => memory.write(offset, bytes),
            None => self.data[offset..offset + bytes.len()].copy_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_nobody_wrote() {
        let mut store = Store::unwritten(300);
        assert_eq!(store.gaps(5, 290).collect::<Vec<_>>(), [(5, 290)]);
        store.set_written(0, 64);
        store.set_written(100, 1);
        store.set_written(128, 100);
        assert_eq!(store.gaps(10, 240).collect::<Vec<_>>(), [(64, 36), (101, 27), (228, 22)]);
        store.set_written(0, 300);
        assert_eq!(store.gaps(0, 300).count(), 0);
        assert_eq!(Store::of(vec![1; 8]).gaps(0, 8).count(), 0);
    }
}
