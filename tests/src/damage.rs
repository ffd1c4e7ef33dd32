//! Damage to good files, at random but the same for the same seed.

use crate::synthetic::Rng;

/// Absurd and extreme 64-bit values.
const ABSURD: [u64; 11] =
    [0, 1, 31, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 40, u64::MAX >> 1, 1 << 63, u64::MAX - 31, u64::MAX];

/// The seed of a test's damage: `$RIGC_SEED`, or `usual`. Says which it is, so that a failure can be had again.
///
/// # Panics
/// If the variable is no number.
pub fn seed(usual: u64) -> u64 {
    let seed = std::env::var("RIGC_SEED").map_or(usual, |s| s.parse().expect("RIGC_SEED is a number"));
    println!("RIGC_SEED={seed}");
    seed
}

/// Changes a file in one to three places, most often among its first `header` bytes: flips bits, writes extreme and random
/// values, inserts, deletes, truncates.
pub fn damage(bytes: &mut Vec<u8>, header: usize, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let end = if rng.below(8) == 0 { bytes.len() } else { header.min(bytes.len()) };
        if end < 16 {
            return;
        }
        let at = rng.below(end);
        let wide = at.min(bytes.len() - 8);
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            2 => bytes[at] = rng.next() as u8,
            3 => bytes[wide..wide + 8].copy_from_slice(&ABSURD[rng.below(ABSURD.len())].to_le_bytes()),
            4 => bytes[wide..wide + 4].copy_from_slice(&[0xff, 0xff, 0xff, [0x7f, 0xff][rng.below(2)]]),
            5 if rng.below(4) == 0 => bytes.truncate(at),
            6 => drop(bytes.drain(at..(at + 1 + rng.below(9)).min(end))),
            _ => {
                let piece = bytes[wide..wide + 1 + rng.below(8)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Replaces a number of a text by another, often an absurd one.
pub fn number(text: &mut Vec<u8>, rng: &mut Rng) {
    let start = 1 + rng.below(text.len() - 1);
    let starts = |&i: &usize| text[i].is_ascii_digit() && !text[i - 1].is_ascii_alphanumeric();
    let Some(from) = (start..text.len()).find(starts) else { return };
    let to = (from..text.len()).find(|&i| !text[i].is_ascii_digit()).unwrap_or(text.len());
    let n = [7, 64, 1 << 20].into_iter().chain(ABSURD).nth(rng.below(ABSURD.len() + 3)).unwrap_or_default();
    text.splice(from..to, n.to_string().bytes());
}
