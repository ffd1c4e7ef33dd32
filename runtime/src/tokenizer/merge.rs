//! The engine of every merging tokenizer: of the pairs of neighbours that merge, the one of lowest rank merges first,
//! the leftmost of equals, until no pair is left. What symbols and ranks mean is the caller's: see `bpe` and `spm`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// "No symbol", "no rank" and "no neighbour".
pub(super) const NONE: u32 = u32::MAX;
/// Words above this many symbols merge by buckets, the others by scanning.
const SCAN_MAX: usize = 48;
/// Most symbols of a word, so that positions fit 32 bits.
pub(super) const WORD_MAX: usize = 1 << 30;

/// A pair that merges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) rank: u32,
    /// What they become.
    pub(super) symbol: u32,
}

/// The two texts of a listed merge. The space between them is never the first character, so that the left may begin with
/// one.
pub(super) fn two_parts(text: &str) -> Option<(&str, &str)> {
    let space = text.char_indices().skip(1).find(|(i, c)| *c == ' ' && i + 1 < text.len());
    space.map(|(i, _)| (&text[..i], &text[i + 1..]))
}

/// A [`Pair`]: `left` is the table row it stands in.
#[derive(Debug, Clone, Copy)]
struct Merge {
    right: u32,
    rank: u32,
    symbol: u32,
}

/// The pairs of a vocabulary.
#[derive(Debug)]
pub(super) struct Merges {
    /// `merges[rows[left]..rows[left + 1]]` are those of a symbol, sorted by `right`.
    rows: Vec<u32>,
    merges: Vec<Merge>,
    ranks: usize,
}

/// Working memory of [`Merges::run`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    nodes: Vec<Node>,
    buckets: Buckets,
}

/// A symbol of the word being merged.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// [`NONE`] once merged into its left neighbour.
    symbol: u32,
    /// Rank of the merge with the right neighbour.
    rank: u32,
    /// What that makes.
    merged: u32,
    prev: u32,
    next: u32,
}

/// Pairs of a long word by rank. Many share a rank, so a bucket for each takes far less time than a heap of pairs.
#[derive(Debug, Default)]
struct Buckets {
    by_rank: Vec<Bucket>,
    /// The ranks whose buckets hold something.
    ranks: BinaryHeap<Reverse<u32>>,
}

/// The left nodes of the pairs of one rank: `pairs[taken..]` and `late` are still to come.
#[derive(Debug, Default, Clone)]
struct Bucket {
    pairs: Vec<u32>,
    taken: usize,
    unsorted: bool,
    /// Pairs that came after the first was taken.
    late: BinaryHeap<Reverse<u32>>,
}

impl Buckets {
    fn push(&mut self, rank: u32, node: u32) {
        let bucket = &mut self.by_rank[rank as usize];
        if bucket.taken > 0 {
            return bucket.late.push(Reverse(node));
        }
        match bucket.pairs.last() {
            None => self.ranks.push(Reverse(rank)),
            Some(last) => bucket.unsorted |= *last > node,
        }
        bucket.pairs.push(node);
    }

    /// The leftmost pair of a rank.
    fn take(&mut self, rank: u32) -> Option<u32> {
        let bucket = &mut self.by_rank[rank as usize];
        if std::mem::take(&mut bucket.unsorted) {
            bucket.pairs.sort_unstable();
        }
        let next = bucket.pairs.get(bucket.taken).copied();
        if let Some(Reverse(late)) = bucket.late.peek().copied()
            && next.is_none_or(|n| late < n)
        {
            bucket.late.pop();
            return Some(late);
        }
        bucket.taken += 1;
        if next.is_none() {
            bucket.pairs.clear();
            bucket.taken = 0;
        }
        next
    }
}

impl Merges {
    /// For symbols below `symbols` and ranks below `ranks`. Of equal pairs, the one of lowest rank counts.
    pub(super) fn new(symbols: usize, ranks: usize, mut pairs: Vec<Pair>) -> Self {
        pairs.sort_unstable_by_key(|p| (p.left, p.right, p.rank));
        pairs.dedup_by_key(|p| (p.left, p.right));
        let mut rows = vec![0u32; symbols + 1];
        for pair in &pairs {
            rows[pair.left as usize + 1] += 1;
        }
        for i in 1..rows.len() {
            rows[i] += rows[i - 1];
        }
        let merge = |p: Pair| Merge { right: p.right, rank: p.rank, symbol: p.symbol };
        Merges { rows, merges: pairs.into_iter().map(merge).collect(), ranks }
    }

    /// Merges a word of at most [`WORD_MAX`] symbols, each of the table or above it: those never merge. `out` gets each
    /// symbol left and where in the word it begins.
    pub(super) fn run(
        &self,
        word: impl IntoIterator<Item = u32>,
        scratch: &mut Scratch,
        mut out: impl FnMut(usize, u32),
    ) {
        let Scratch { nodes, buckets } = scratch;
        nodes.clear();
        nodes.extend((0u32..).zip(word).map(|(i, symbol)| Node {
            symbol,
            rank: NONE,
            merged: NONE,
            prev: i.wrapping_sub(1),
            next: i + 1,
        }));
        if let Some(last) = nodes.last_mut() {
            last.next = NONE;
        }
        for i in 1..nodes.len() {
            (nodes[i - 1].rank, nodes[i - 1].merged) = self.pair(nodes[i - 1].symbol, nodes[i].symbol);
        }
        if nodes.len() <= SCAN_MAX {
            while let Some(at) = lowest(nodes) {
                self.merge_at(nodes, at, &mut |_, _| {});
            }
        } else {
            self.merge_long(nodes, buckets);
        }
        nodes.iter().enumerate().filter(|(_, n)| n.symbol != NONE).for_each(|(i, n)| out(i, n.symbol));
    }

    /// Merges by ascending rank, and from left to right where ranks are equal.
    fn merge_long(&self, nodes: &mut [Node], buckets: &mut Buckets) {
        buckets.by_rank.resize(self.ranks, Bucket::default());
        for (i, node) in (0u32..).zip(&*nodes).filter(|(_, n)| n.rank != NONE) {
            buckets.push(node.rank, i);
        }
        while let Some(Reverse(rank)) = buckets.ranks.pop() {
            while let Some(at) = buckets.take(rank) {
                // A pair is out of date once its left node has merged away or has another right neighbour.
                if nodes[at as usize].rank != rank {
                    continue;
                }
                let mut lowest = NONE;
                self.merge_at(nodes, at, &mut |rank, at| {
                    lowest = lowest.min(rank);
                    buckets.push(rank, at);
                });
                if lowest < rank {
                    // What this merge made possible comes before the rest of the bucket.
                    buckets.ranks.push(Reverse(rank));
                    break;
                }
            }
        }
    }

    /// Merges node `at` with its right neighbour, and tells `found` of the pairs that this makes: (rank, left node).
    fn merge_at(&self, nodes: &mut [Node], at: u32, found: &mut dyn FnMut(u32, u32)) {
        let Node { prev, next: gone, merged: symbol, .. } = nodes[at as usize];
        let next = nodes[gone as usize].next;
        nodes[gone as usize] = Node { symbol: NONE, rank: NONE, merged: NONE, prev: NONE, next: NONE };
        let mut node = Node { symbol, rank: NONE, merged: NONE, prev, next };
        if let Some(right) = nodes.get_mut(next as usize) {
            right.prev = at;
            (node.rank, node.merged) = self.pair(symbol, right.symbol);
            if node.rank != NONE {
                found(node.rank, at);
            }
        }
        nodes[at as usize] = node;
        if let Some(left) = nodes.get_mut(prev as usize) {
            (left.rank, left.merged) = self.pair(left.symbol, symbol);
            if left.rank != NONE {
                found(left.rank, prev);
            }
        }
    }

    /// Rank of the merge of two symbols and what it makes, or [`NONE`] twice.
    fn pair(&self, left: u32, right: u32) -> (u32, u32) {
        let left = left as usize;
        if left + 1 >= self.rows.len() {
            return (NONE, NONE);
        }
        let row = &self.merges[self.rows[left] as usize..self.rows[left + 1] as usize];
        row.binary_search_by_key(&right, |m| m.right).map_or((NONE, NONE), |i| (row[i].rank, row[i].symbol))
    }
}

/// The left node of the pair of lowest rank, the leftmost of equals.
fn lowest(nodes: &[Node]) -> Option<u32> {
    let best = (0u32..).zip(nodes).min_by_key(|(_, n)| n.rank)?;
    (best.1.rank != NONE).then_some(best.0)
}
