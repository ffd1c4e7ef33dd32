//! Bytes that know which of them were written.

/// What unwritten memory holds.
const POISON: u8 = 0xa5;

/// Bytes and, unless all were written, a bit for each that says so.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) data: Vec<u8>,
    written: Option<Vec<u64>>,
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
    /// Bytes that nobody wrote.
    pub(crate) fn unwritten(bytes: usize) -> Store {
        Store { data: vec![POISON; bytes], written: Some(vec![0; bytes.div_ceil(64)]) }
    }

    /// Written bytes.
    pub(crate) fn of(data: Vec<u8>) -> Store {
        Store { data, written: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// Adds unwritten bytes at the end.
    pub(crate) fn grow(&mut self, bytes: usize) {
        if bytes > self.data.len() {
            self.data.resize(bytes, POISON);
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

    /// Notes that a range was written.
    pub(crate) fn set_written(&mut self, offset: usize, len: usize) {
        let Some(written) = &mut self.written else { return };
        for (w, ones) in words(offset, len) {
            written[w] |= ones;
        }
    }

    /// Notes that nobody wrote a range, and poisons it.
    pub(crate) fn set_unwritten(&mut self, offset: usize, len: usize) {
        let bytes = self.data.len();
        let written = self.written.get_or_insert_with(|| vec![u64::MAX; bytes.div_ceil(64)]);
        for (w, ones) in words(offset, len) {
            written[w] &= !ones;
        }
        self.data[offset..offset + len].fill(POISON);
    }

    /// An integer of up to 8 bytes.
    #[inline]
    pub(crate) fn get(&self, offset: usize, bytes: u32) -> u64 {
        let at = |n: usize| &self.data[offset..offset + n];
        match bytes {
            1 => u64::from(self.data[offset]),
            2 => u64::from(u16::from_le_bytes(at(2).try_into().unwrap_or_default())),
            4 => u64::from(u32::from_le_bytes(at(4).try_into().unwrap_or_default())),
            _ => u64::from_le_bytes(at(8).try_into().unwrap_or_default()),
        }
    }

    /// An integer of up to 8 bytes, whose unwritten bytes are what `undefined` makes of their place and what is there.
    pub(crate) fn get_partly(&self, offset: usize, bytes: u32, undefined: impl Fn(usize, u8) -> u8) -> u64 {
        (0..bytes as usize).rev().fold(0, |value, i| {
            let (at, byte) = (offset + i, self.data[offset + i]);
            let byte = if self.first_unwritten(at, 1).is_some() { undefined(at, byte) } else { byte };
            value << 8 | u64::from(byte)
        })
    }

    /// Stores an integer of up to 8 bytes.
    #[inline]
    pub(crate) fn put(&mut self, offset: usize, bytes: u32, value: u64) {
        let n = bytes as usize;
        self.data[offset..offset + n].copy_from_slice(&value.to_le_bytes()[..n]);
    }
}
