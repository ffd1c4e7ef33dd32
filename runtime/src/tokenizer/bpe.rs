//! Byte-level byte-pair encoding: a word's bytes become tokens, and the pair of lowest rank merges until none is left.

use super::vocab::quoted;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// "No token", "no rank" and "no neighbour".
const NONE: u32 = u32::MAX;
/// Words above this many bytes merge by buckets, the others by scanning.
const SCAN_MAX: usize = 48;
/// Longer words are cut, so that positions fit 32 bits.
const WORD_MAX: usize = 1 << 30;

/// The byte that a character of the byte-level alphabet stands for.
///
/// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are U+0100 and up.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        c @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(c as u8),
        c @ 0x100..=0x120 => Some((c - 0x100) as u8),
        c @ 0x121..=0x142 => Some((c - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes that `text` stands for; false, with a part of them appended, if it has a character outside the
/// byte-level alphabet.
pub(super) fn decode_text(text: &str, bytes: &mut Vec<u8>) -> bool {
    text.chars().all(|c| byte_of(c).map(|b| bytes.push(b)).is_some())
}

/// One merge: `left` is the table row it stands in.
#[derive(Debug, Clone, Copy)]
struct Merge {
    right: u32,
    rank: u32,
}

/// Tokens and merges.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Token of each byte, or [`NONE`].
    bytes: [u32; 256],
    /// Token of a word.
    tokens: HashMap<Box<[u8]>, u32>,
    /// Length of the longest key of `tokens`.
    longest: usize,
    /// `merges[rows[left]..rows[left + 1]]` are the merges of a token, sorted by `right`.
    rows: Vec<u32>,
    merges: Vec<Merge>,
    /// The token that the merge of each rank makes.
    merged: Vec<u32>,
    ignore_merges: bool,
}

/// Working memory of [`Bpe::encode`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    nodes: Vec<Node>,
    buckets: Buckets,
}

/// Pairs of a long word by rank. Many share a rank, so a bucket for each takes far less time than a heap of pairs.
#[derive(Debug, Default)]
struct Buckets {
    by_rank: Vec<Bucket>,
    /// The ranks whose buckets hold something.
    ranks: BinaryHeap<Reverse<u32>>,
}

/// The left nodes of the pairs of one rank, of which `pairs[taken..]` are still to come.
#[derive(Debug, Default, Clone)]
struct Bucket {
    pairs: Vec<u32>,
    taken: usize,
    unsorted: bool,
}

impl Buckets {
    fn push(&mut self, rank: u32, node: u32) {
        let bucket = &mut self.by_rank[rank as usize];
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
            bucket.pairs[bucket.taken..].sort_unstable();
        }
        let node = bucket.pairs.get(bucket.taken).copied();
        bucket.taken += 1;
        if node.is_none() {
            bucket.pairs.clear();
            bucket.taken = 0;
        }
        node
    }
}

/// A token of the word being merged.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// [`NONE`] once merged into its left neighbour.
    token: u32,
    /// Rank of the merge with the right neighbour.
    rank: u32,
    prev: u32,
    next: u32,
}

impl Bpe {
    /// `texts` are the tokens by id and `merges` the pairs by rank, both in the byte-level alphabet.
    ///
    /// # Errors
    /// [`Error::Input`] if a text occurs twice, a byte that UTF-8 uses has no token, or a merge is no pair of tokens
    /// whose concatenation is a token.
    pub(super) fn new(texts: &[Cow<'_, str>], merges: &[Cow<'_, str>], ignore_merges: bool) -> Result<Self> {
        let mut tokens: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(texts.len());
        let mut buffer = Vec::new();
        for (id, text) in (0u32..).zip(texts) {
            buffer.clear();
            // Text outside the alphabet is never made of bytes: only special tokens have it.
            if text.is_empty() || !decode_text(text, &mut buffer) {
                continue;
            }
            if let Some(first) = tokens.insert(buffer.as_slice().into(), id) {
                return Err(Error::input(format!(
                    "tokenizer.ggml.tokens holds {} twice, as {first} and {id}",
                    quoted(text)
                )));
            }
        }
        let mut bytes = [NONE; 256];
        for (byte, id) in (0u8..=255).zip(&mut bytes) {
            match tokens.get([byte].as_slice()) {
                Some(token) => *id = *token,
                None if matches!(byte, 0xc0 | 0xc1 | 0xf5..) => {}
                None => {
                    return Err(Error::input(format!("tokenizer.ggml.tokens has no token for the byte {byte:#04x}")));
                }
            }
        }

        let mut pairs = Vec::with_capacity(merges.len());
        let mut merged = Vec::with_capacity(merges.len());
        for (rank, text) in (0u32..).zip(merges) {
            let bad = |what: &str| Error::input(format!("tokenizer.ggml.merges[{rank}] is {}, {what}", quoted(text)));
            // The separator is never the first character, so that a token may start with a space.
            let space = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(i, _)| i);
            let (left, right) = text.split_at(space.ok_or_else(|| bad("which is not two tokens"))?);
            buffer.clear();
            let known = decode_text(left, &mut buffer);
            let middle = buffer.len();
            let known = known && decode_text(&right[1..], &mut buffer);
            let token = |bytes: &[u8]| tokens.get(bytes).copied().filter(|_| known);
            let pair = token(&buffer[..middle]).zip(token(&buffer[middle..]));
            let (left, right) = pair.ok_or_else(|| bad("of which a part is not in tokenizer.ggml.tokens"))?;
            merged.push(token(&buffer).ok_or_else(|| bad("which joined is not in tokenizer.ggml.tokens"))?);
            pairs.push((left, Merge { right, rank }));
        }
        pairs.sort_unstable_by_key(|(left, m)| (*left, m.right, m.rank));
        pairs.dedup_by_key(|(left, m)| (*left, m.right));
        let mut rows = vec![0u32; texts.len() + 1];
        for (left, _) in &pairs {
            rows[*left as usize + 1] += 1;
        }
        for i in 1..rows.len() {
            rows[i] += rows[i - 1];
        }

        let longest = tokens.keys().map(|k| k.len()).max().unwrap_or(0);
        let merges = pairs.into_iter().map(|(_, m)| m).collect();
        Ok(Bpe { bytes, tokens, longest, rows, merges, merged, ignore_merges })
    }

    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.ignore_merges
            && word.len() <= self.longest
            && let Some(token) = self.tokens.get(word)
        {
            return out.push(*token);
        }
        for part in word.chunks(WORD_MAX) {
            self.merge(part, scratch, out);
        }
    }

    fn merge(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { nodes, buckets } = scratch;
        nodes.clear();
        nodes.extend((0u32..).zip(word).map(|(i, byte)| Node {
            token: self.bytes[*byte as usize],
            rank: NONE,
            prev: i.wrapping_sub(1),
            next: i + 1,
        }));
        if let Some(last) = nodes.last_mut() {
            last.next = NONE;
        }
        for i in 1..nodes.len() {
            nodes[i - 1].rank = self.rank(nodes[i - 1].token, nodes[i].token);
        }
        if nodes.len() <= SCAN_MAX {
            while let Some((at, rank)) = lowest(nodes) {
                self.merge_at(nodes, at, rank, &mut |_, _| {});
            }
        } else {
            self.merge_long(nodes, buckets);
        }
        out.extend(nodes.iter().map(|n| n.token).filter(|t| *t != NONE));
    }

    /// Merges by ascending rank, and from left to right where ranks are equal.
    fn merge_long(&self, nodes: &mut [Node], buckets: &mut Buckets) {
        buckets.by_rank.resize(self.merged.len(), Bucket::default());
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
                self.merge_at(nodes, at, rank, &mut |rank, at| {
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
    fn merge_at(&self, nodes: &mut [Node], at: u32, rank: u32, found: &mut dyn FnMut(u32, u32)) {
        let Node { prev, next: gone, .. } = nodes[at as usize];
        let next = nodes[gone as usize].next;
        nodes[gone as usize] = Node { token: NONE, rank: NONE, prev: NONE, next: NONE };
        let token = self.merged[rank as usize];
        nodes[at as usize] = Node { token, rank: NONE, prev, next };
        if let Some(right) = nodes.get_mut(next as usize) {
            right.prev = at;
            let rank = self.rank(token, right.token);
            nodes[at as usize].rank = rank;
            if rank != NONE {
                found(rank, at);
            }
        }
        if let Some(left) = nodes.get_mut(prev as usize) {
            left.rank = self.rank(left.token, token);
            if left.rank != NONE {
                found(left.rank, prev);
            }
        }
    }

    /// Rank of the merge of two tokens, or [`NONE`].
    fn rank(&self, left: u32, right: u32) -> u32 {
        if left == NONE {
            return NONE;
        }
        let row = &self.merges[self.rows[left as usize] as usize..self.rows[left as usize + 1] as usize];
        row.binary_search_by_key(&right, |m| m.right).map_or(NONE, |i| row[i].rank)
    }
}

/// The pair of lowest rank, the leftmost of equals: (left node, rank).
fn lowest(nodes: &[Node]) -> Option<(u32, u32)> {
    let best = (0u32..).zip(nodes).min_by_key(|(_, n)| n.rank)?;
    (best.1.rank != NONE).then_some((best.0, best.1.rank))
}
