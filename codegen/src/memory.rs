//! Memory planning: offsets in the arena for buffers by their lifetimes.

use ir::abi::ROW_ALIGN;

/// A buffer that needs a place: alive from step `first` to step `last`, inclusive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
}

/// An offset for each buffer, and the size of the arena. Largest first, each at the lowest offset where nothing that lives
/// at the same time is.
pub(crate) fn place(buffers: &[Lifetime]) -> (Vec<u64>, u64) {
    let size = |b: &Lifetime| b.bytes.next_multiple_of(ROW_ALIGN as u64);
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].bytes), i));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for i in order {
        let b = &buffers[i];
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&p| buffers[p].first <= b.last && b.first <= buffers[p].last)
            .map(|&p| (offsets[p], offsets[p] + size(&buffers[p])))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + size(b) <= start {
                break;
            }
            offset = offset.max(end);
        }
        offsets[i] = offset;
        arena = arena.max(offset + size(b));
        placed.push(i);
    }
    (offsets, arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_buffers_do_not_overlap_and_dead_ones_are_reused() {
        let life = |bytes, first, last| Lifetime { bytes, first, last };
        let buffers = [life(100, 0, 1), life(64, 1, 2), life(100, 2, 3), life(1, 0, 3), life(300, 3, 3)];
        let (offsets, arena) = place(&buffers);
        for (i, a) in buffers.iter().enumerate() {
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let together = a.first <= b.last && b.first <= a.last;
                let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                assert!(!together || apart, "buffers {i} and {j}");
            }
        }
        assert!(offsets.iter().all(|o| o % 64 == 0));
        assert_eq!(arena, 320 + 128 + 64);
    }
}
