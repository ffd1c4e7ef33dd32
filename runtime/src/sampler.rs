//! Choosing the next token from logits.
//!
//! The steps are, in this order: penalty for tokens of the last [`PENALTY_WINDOW`], top-k, top-p, min-p, temperature,
//! draw. Candidates are ordered by logit, equal ones by id. Nothing allocates after [`Sampler::new`].

use crate::error::{Error, Result};
use std::cmp::Ordering;

/// Number of last tokens that the repeat penalty looks at.
pub const PENALTY_WINDOW: usize = 64;

/// How to sample. [`Default`] are the defaults of the command line, with seed 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerConfig {
    /// Logits are divided by it before the draw; 0: the candidate of the largest logit is taken.
    pub temperature: f32,
    /// Only this many candidates of the largest logits are kept; 0: all.
    pub top_k: usize,
    /// Only the fewest candidates whose probabilities (at temperature 1) add up to it are kept; 1: all.
    pub top_p: f32,
    /// Only candidates at least this times as probable (at temperature 1) as the first are kept; 0: all.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by it, others multiplied; 1: none are changed.
    pub repeat_penalty: f32,
    /// Equal seeds give equal draws from equal logits.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 0 }
    }
}

/// A token and its logit.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    id: u32,
}

/// Larger logits first, of equal ones the smaller id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    // `sane` leaves no NaN.
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// A logit that compares: NaN and infinity become the largest float, as in [`ir::graph::Op::TopK`], and are refused as that.
fn sane(logit: f32) -> f32 {
    if logit < f32::MAX { logit } else { f32::MAX }
}

/// Refuses the largest of all logits if it says that one is NaN or infinite, or that none is finite.
fn check(largest: Option<f32>) -> Result<f32> {
    largest.filter(|l| *l > f32::NEG_INFINITY && *l < f32::MAX).ok_or(Error::NotFinite { after: None })
}

/// A chain of sampling steps, with its random state and the tokens seen so far.
#[derive(Debug)]
pub struct Sampler {
    config: SamplerConfig,
    n_vocab: usize,
    rng: Xoshiro256,
    /// The last tokens; the oldest is at `seen % PENALTY_WINDOW` once there are that many.
    recent: [u32; PENALTY_WINDOW],
    seen: usize,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting that is out of its range.
    pub fn new(config: SamplerConfig, n_vocab: usize) -> Result<Self> {
        let SamplerConfig { temperature, top_k, top_p, min_p, repeat_penalty, seed } = config;
        let check = |name, value: f32, range: &str, good: bool| match good {
            true => Ok(()),
            false => Err(Error::input(format!("the {name} must be {range}, not {value}"))),
        };
        check("temperature", temperature, "0 or more", temperature >= 0.0 && temperature.is_finite())?;
        check("top-p", top_p, "above 0, up to 1", top_p > 0.0 && top_p <= 1.0)?;
        check("min-p", min_p, "0 to 1", (0.0..=1.0).contains(&min_p))?;
        check("repeat penalty", repeat_penalty, "above 0", repeat_penalty > 0.0 && repeat_penalty.is_finite())?;
        if n_vocab == 0 || u32::try_from(n_vocab).is_err() {
            return Err(Error::input(format!("a vocabulary of {n_vocab} tokens cannot be sampled from")));
        }
        let kept = if top_k == 0 { n_vocab } else { top_k.min(n_vocab) };
        Ok(Sampler {
            config,
            n_vocab,
            rng: Xoshiro256::new(seed),
            recent: [0; PENALTY_WINDOW],
            seen: 0,
            candidates: Vec::with_capacity(buffer_len(kept).min(n_vocab)),
        })
    }

    /// Tells of a token of the text, prompt or generated: the repeat penalty looks at it.
    pub fn accept(&mut self, id: u32) {
        self.recent[self.seen % PENALTY_WINDOW] = id;
        self.seen += 1;
    }

    /// How many of the largest logits [`sample_top`](Self::sample_top) has to see; `None` if only
    /// [`sample`](Self::sample), which sees all, will do.
    pub fn needs(&self) -> Option<usize> {
        let SamplerConfig { temperature, top_k, repeat_penalty, .. } = self.config;
        match top_k {
            _ if repeat_penalty != 1.0 => None,
            _ if temperature == 0.0 => Some(1),
            k => (1..self.n_vocab).contains(&k).then_some(k),
        }
    }

    /// The token that [`sample`](Self::sample) would give, from the largest logits with their ids: largest first, equal ones
    /// by id, as many as the sampler [`needs`](Self::needs) or more.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one is NaN or infinite or every one -infinity.
    pub fn sample_top(&mut self, top: impl Iterator<Item = (u32, f32)>) -> Result<u32> {
        let top = top.take(self.kept()).map(|(id, logit)| Candidate { logit: sane(logit), id });
        self.candidates.clear();
        self.candidates.extend(top.filter(|c| c.logit > f32::NEG_INFINITY));
        self.choose()
    }

    /// The next token for `logits` (one for each token id), in which the penalty is left applied. It is not
    /// [`accept`](Self::accept)ed. -infinity counts as impossible.
    ///
    /// # Errors
    /// [`Error::Input`] if `logits` has another length than the vocabulary; [`Error::NotFinite`] if one is NaN or infinite or
    /// every one -infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.len() != self.n_vocab {
            return Err(Error::input(format!("{} logits for a vocabulary of {}", logits.len(), self.n_vocab)));
        }
        self.penalise(logits);
        select(logits, self.kept(), &mut self.candidates);
        self.choose()
    }

    /// How many candidates of the largest logits are kept.
    fn kept(&self) -> usize {
        match self.config.top_k {
            _ if self.config.temperature == 0.0 => 1,
            0 => self.n_vocab,
            k => k.min(self.n_vocab),
        }
    }

    /// One of the candidates.
    fn choose(&mut self) -> Result<u32> {
        if self.config.temperature == 0.0 {
            let first = self.candidates.first();
            check(first.map(|c| c.logit))?;
            return Ok(first.map_or(0, |c| c.id));
        }
        self.truncate();
        let largest = check(self.candidates.iter().map(|c| c.logit).reduce(f32::max))?;
        Ok(self.draw(largest))
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.config.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let recent = &self.recent[..self.seen.min(PENALTY_WINDOW)];
        for (i, id) in recent.iter().enumerate() {
            if let Some(logit) = logits.get_mut(*id as usize)
                && !recent[..i].contains(id)
            {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Top-p and min-p: both keep the first candidates in order, so the shorter of the two prefixes is kept.
    fn truncate(&mut self) {
        let SamplerConfig { top_p, min_p, .. } = self.config;
        let all = &mut self.candidates;
        let Some(largest) = all.iter().min_by(|a, b| order(a, b)).copied() else { return };
        let total: f64 = all.iter().map(|c| weight(c.logit, largest.logit, 1.0)).sum();
        if min_p > 0.0 {
            let least = largest.logit + min_p.ln();
            all.retain(|c| c.logit >= least);
        }
        if top_p < 1.0 {
            let wanted = f64::from(top_p) * total;
            // Only as long a prefix as is needed gets sorted.
            let mut sorted = 0;
            let mut sum = 0.0;
            while sorted < all.len() {
                let rest = &mut all[sorted..];
                let part = rest.len().min(64.max(sorted * 7));
                if part < rest.len() {
                    rest.select_nth_unstable_by(part, order);
                }
                rest[..part].sort_unstable_by(order);
                for (i, c) in rest[..part].iter().enumerate() {
                    sum += weight(c.logit, largest.logit, 1.0);
                    if sum >= wanted {
                        all.truncate(sorted + i + 1);
                        return;
                    }
                }
                sorted += part;
            }
        }
    }

    /// Draws one of the candidates, of which there are some; `largest` is their largest logit.
    fn draw(&mut self, largest: f32) -> u32 {
        let temperature = self.config.temperature;
        let weigh = |c: &Candidate| weight(c.logit, largest, temperature);
        let total: f64 = self.candidates.iter().map(weigh).sum();
        let mut left = self.rng.uniform() * total;
        let mut last = self.candidates[0].id;
        for c in &self.candidates {
            let weight = weigh(c);
            if weight > 0.0 {
                last = c.id;
                if left < weight {
                    break;
                }
            }
            left -= weight;
        }
        last
    }
}

/// The probability of a candidate relative to that of the largest logit.
fn weight(logit: f32, largest: f32, temperature: f32) -> f64 {
    f64::from(((logit - largest) / temperature).exp())
}

/// Room in which [`select`] finds the `k` largest: twice as many, so that each selection pays for many candidates.
fn buffer_len(k: usize) -> usize {
    k.saturating_mul(2).max(512)
}

/// Fills `out` with the `k` largest of `logits`, in order unless they are all of them; -infinity is left out.
fn select(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let candidates = (0u32..).zip(logits).map(|(id, logit)| Candidate { logit: sane(*logit), id });
    if k >= logits.len() {
        out.extend(candidates.filter(|c| c.logit > f32::NEG_INFINITY));
        return;
    }
    let full = buffer_len(k).min(logits.len());
    // Ids ascend, so a later candidate has to be larger than the k-th to displace it.
    let mut least = f32::NEG_INFINITY;
    for c in candidates {
        if c.logit > least {
            out.push(c);
            if out.len() == full {
                keep_largest(out, k);
                least = out.iter().map(|c| c.logit).fold(f32::MAX, f32::min);
            }
        }
    }
    keep_largest(out, k);
    out.sort_unstable_by(order);
}

fn keep_largest(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, order);
    }
    candidates.truncate(k);
}

/// The `k` largest logits with their ids, largest first, equal ones by id. -infinity is left out.
///
/// # Errors
/// [`Error::NotFinite`] if one is NaN or infinite, or every one -infinity.
pub fn top_logits(logits: &[f32], k: usize) -> Result<Vec<(u32, f32)>> {
    let mut candidates = Vec::new();
    select(logits, k, &mut candidates);
    candidates.sort_unstable_by(order);
    largest_first(candidates.into_iter().map(|c| (c.id, c.logit)), k)
}

/// The first `k` of the largest logits with their ids, which come largest first; -infinity is left out.
///
/// # Errors
/// Those of [`top_logits`].
pub fn largest_first(top: impl Iterator<Item = (u32, f32)>, k: usize) -> Result<Vec<(u32, f32)>> {
    let top: Vec<_> = top.take(k).filter(|&(_, logit)| logit > f32::NEG_INFINITY).collect();
    if k > 0 {
        check(top.first().map(|&(_, logit)| logit))?;
    }
    Ok(top)
}

/// xoshiro256++ 1.0 (Blackman and Vigna), seeded by splitmix64.
#[derive(Debug, Clone)]
struct Xoshiro256([u64; 4]);

impl Xoshiro256 {
    fn new(mut seed: u64) -> Self {
        Xoshiro256(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplerConfig {
        SamplerConfig { temperature, top_k, top_p, min_p, repeat_penalty: 1.0, seed: 1 }
    }

    /// `n` logits of a spread like a model's.
    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Xoshiro256::new(seed);
        (0..n).map(|_| (0..6).map(|_| rng.uniform() as f32 * 6.0 - 3.0).sum()).collect()
    }

    /// The probability of each token, step by step.
    fn probabilities(logits: &[f32], config: &SamplerConfig) -> Vec<f64> {
        let softmax = |l: &[(usize, f64)]| -> Vec<f64> {
            let w: Vec<f64> = l.iter().map(|c| (c.1 - l[0].1).exp()).collect();
            w.iter().map(|x| x / w.iter().sum::<f64>()).collect()
        };
        let mut kept: Vec<(usize, f64)> = logits.iter().map(|l| f64::from(*l)).enumerate().collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if config.top_k > 0 {
            kept.truncate(config.top_k);
        }
        let mut sum = 0.0;
        let p = softmax(&kept);
        let n = p.iter().position(|p| ((sum += p), sum >= f64::from(config.top_p)).1);
        kept.truncate(n.map_or(kept.len(), |n| n + 1));
        let p = softmax(&kept);
        kept.truncate(p.iter().filter(|x| **x >= f64::from(config.min_p) * p[0]).count());
        kept.iter_mut().for_each(|c| c.1 /= f64::from(config.temperature));
        let mut all = vec![0.0; logits.len()];
        kept.iter().zip(softmax(&kept)).for_each(|(c, p)| all[c.0] = p);
        all
    }

    #[test]
    fn draws_follow_the_probabilities() {
        #[track_caller]
        fn check(config: SamplerConfig, n_vocab: usize) {
            const DRAWS: usize = 1000;
            let logits = logits(n_vocab, 7);
            let want = probabilities(&logits, &config);
            let mut sampler = Sampler::new(config.clone(), n_vocab).unwrap();
            let room = sampler.candidates.capacity();
            let mut count = vec![0usize; n_vocab];
            for _ in 0..DRAWS {
                count[sampler.sample(&mut logits.clone()).unwrap() as usize] += 1;
            }
            assert_eq!(sampler.candidates.capacity(), room, "{config:?} allocates");
            for (id, (count, p)) in count.iter().zip(want).enumerate() {
                let (mean, sigma) = (p * DRAWS as f64, (p * (1.0 - p) * DRAWS as f64).sqrt());
                assert!(
                    (*count as f64 - mean).abs() <= 5.0 * sigma + f64::from(p > 0.0),
                    "{config:?} {id}: {count} of {mean}"
                );
            }
        }
        check(SamplerConfig { seed: 3, ..SamplerConfig::default() }, 600);
        check(config(1.0, 0, 1.0, 0.0), 50);
        check(config(0.7, 0, 1.0, 0.0), 600);
        check(config(1.0, 3, 1.0, 0.0), 600);
        check(config(1.0, 300, 0.99, 0.0), 600);
        check(config(2.0, 0, 0.999, 0.0), 600);
        check(config(1.5, 0, 0.5, 0.0), 600);
        check(config(1.0, 0, 1.0, 0.1), 600);
        check(config(1.0, 0, 0.9, 0.3), 600);
        check(config(1.0, 40, 0.3, 0.01), 600);
        check(config(1.0, 5000, 0.95, 0.05), 600);
        check(config(0.01, 40, 0.95, 0.05), 1);
    }

    #[test]
    fn greedy() {
        #[track_caller]
        fn check(logits: &[f32], want: u32) {
            let mut sampler = Sampler::new(config(0.0, 40, 0.95, 0.05), logits.len()).unwrap();
            assert_eq!(sampler.sample(&mut logits.to_vec()).unwrap(), want);
            assert_eq!(top_logits(logits, 1).unwrap()[0].0, want);
        }
        check(&[1.0, 3.0, 2.0], 1);
        check(&[1.0, 3.0, 3.0], 1);
        check(&[0.0, -0.0], 0);
        check(&[-0.0, 0.0], 0);
        check(&[f32::NEG_INFINITY, f32::MIN], 1);
        check(&[[0.5; 5000].as_slice(), &[0.75, 0.75]].concat(), 5000);
    }

    #[test]
    fn equal_seeds_give_equal_draws() {
        let draws = |seed| {
            let mut sampler = Sampler::new(SamplerConfig { seed, ..SamplerConfig::default() }, 500).unwrap();
            (0..100).map(|i| sampler.sample(&mut logits(500, i)).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(5), draws(5));
        assert_ne!(draws(5), draws(6));
    }

    /// From the largest logits a sampler draws what it draws from all of them, or says that it needs all.
    #[test]
    fn the_largest_are_enough() {
        const VOCAB: usize = 700;
        let off = SamplerConfig { repeat_penalty: 1.1, ..config(0.0, 40, 1.0, 0.0) };
        for bad in [off, config(0.8, 0, 0.9, 0.0), config(0.8, VOCAB, 0.9, 0.0), config(0.8, VOCAB + 1, 0.9, 0.0)] {
            assert_eq!(Sampler::new(bad.clone(), VOCAB).unwrap().needs(), None, "{bad:?}");
        }
        let fine = [config(0.0, 0, 0.95, 0.05), config(0.0, 40, 0.95, 0.05), SamplerConfig::default()];
        let some = [config(1.5, 256, 0.99, 0.0), config(1.0, 1, 1.0, 0.0), config(3.0, VOCAB - 1, 1.0, 0.0)];
        for config in fine.into_iter().chain(some) {
            let [mut one, mut other] = [0, 1].map(|_| Sampler::new(config.clone(), VOCAB).unwrap());
            let needs = one.needs().unwrap();
            for seed in 0..200 {
                let mut all = logits(VOCAB, seed);
                match seed % 4 {
                    1 => all.iter_mut().for_each(|l| *l = l.round()),
                    2 => all.iter_mut().skip(20).for_each(|l| *l = f32::NEG_INFINITY),
                    _ => {}
                }
                let mut order: Vec<(u32, f32)> = (0..).zip(all.iter().map(|&l| sane(l))).collect();
                order.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
                let top = one.sample_top(order.into_iter().take(needs + seed as usize % 3)).unwrap();
                assert_eq!(top, other.sample(&mut all).unwrap(), "{config:?}, {seed}");
            }
        }
    }

    /// Whichever way the sampler takes, one logit that is NaN or infinite is refused, and -infinity is not.
    #[test]
    fn logits_that_are_not_finite() {
        const VOCAB: usize = 700;
        let refused = |result: Result<u32>| matches!(result, Err(Error::NotFinite { after: None }));
        let configs =
            [config(0.0, 0, 1.0, 0.0), config(1.0, 0, 0.9, 0.1), config(1.0, 0, 1.0, 0.0), SamplerConfig::default()];
        for config in configs {
            let mut sampler = Sampler::new(config.clone(), VOCAB).unwrap();
            for at in [0, 1, VOCAB / 2, VOCAB - 1] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut all = logits(VOCAB, 1);
                    all[at] = bad;
                    assert!(top_logits(&all, 1).is_err() && top_logits(&all, 900).is_err(), "{bad} at {at}");
                    assert!(refused(sampler.sample(&mut all)), "{config:?}: {bad} at {at}");
                }
                let mut all = logits(VOCAB, 1);
                all[at] = f32::NEG_INFINITY;
                assert!(sampler.sample(&mut all).is_ok_and(|id| id as usize != at), "{config:?}: {at}");
            }
            assert!(refused(sampler.sample(&mut [f32::NEG_INFINITY; VOCAB])), "{config:?}");
            assert!(refused(sampler.sample_top([(0, f32::MAX), (1, 0.0)].into_iter())), "{config:?}");
            assert!(refused(sampler.sample_top([(0, f32::NEG_INFINITY)].into_iter())), "{config:?}");
        }
        assert!(top_logits(&[f32::NAN], 0).unwrap().is_empty());
    }

    #[test]
    fn repeat_penalty() {
        let mut sampler = Sampler::new(SamplerConfig { repeat_penalty: 2.0, ..config(0.0, 0, 1.0, 0.0) }, 4).unwrap();
        for id in [2, 0, 2, 1, 99] {
            sampler.accept(id);
        }
        let mut l = [4.0, -1.0, 3.0, 1.75];
        assert_eq!(sampler.sample(&mut l).unwrap(), 0);
        assert_eq!(l, [2.0, -2.0, 1.5, 1.75]);
        // Only the last 64 count.
        for _ in 0..PENALTY_WINDOW - 1 {
            sampler.accept(3);
        }
        sampler.accept(1);
        let mut l = [4.0, -1.0, 3.0, 1.75];
        assert_eq!(sampler.sample(&mut l).unwrap(), 0);
        assert_eq!(l, [4.0, -2.0, 3.0, 0.875]);
    }

    #[test]
    fn largest_logits() {
        #[track_caller]
        fn check(logits: &[f32], k: usize) {
            let mut want: Vec<(u32, f32)> = (0u32..).zip(logits).map(|(i, l)| (i, *l)).collect();
            want.retain(|c| c.1 > f32::NEG_INFINITY);
            want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            want.truncate(k);
            assert_eq!(top_logits(logits, k).unwrap(), want, "{k} of {}", logits.len());
        }
        for n in [1, 511, 512, 513, 3000] {
            for k in [0, 1, 2, 300, 600, 3000, usize::MAX] {
                check(&logits(n, 3), k);
                check(&(0..n).map(|i| i as f32).collect::<Vec<_>>(), k);
                check(&(0..n).map(|i| (i % 7) as f32).collect::<Vec<_>>(), k);
                check(&(0..n).map(|i| if i % 3 == 1 { f32::NEG_INFINITY } else { -(i as f32) }).collect::<Vec<_>>(), k);
            }
        }
    }

    #[test]
    fn refuses() {
        #[track_caller]
        fn check(config: SamplerConfig, want: &str) {
            assert_eq!(Sampler::new(config, 4).expect_err(want).to_string(), want);
        }
        let c = || config(1.0, 40, 0.9, 0.1);
        check(config(-1.0, 0, 1.0, 0.0), "the temperature must be 0 or more, not -1");
        check(config(f32::NAN, 0, 1.0, 0.0), "the temperature must be 0 or more, not NaN");
        check(config(1.0, 0, 0.0, 0.0), "the top-p must be above 0, up to 1, not 0");
        check(config(1.0, 0, 1.0, 1.5), "the min-p must be 0 to 1, not 1.5");
        check(SamplerConfig { repeat_penalty: 0.0, ..c() }, "the repeat penalty must be above 0, not 0");
        assert!(Sampler::new(c(), 0).is_err());
        for bad in [&mut [f32::NAN; 4][..], &mut [f32::NEG_INFINITY; 4], &mut [1.0; 3], &mut []] {
            assert!(Sampler::new(c(), 4).unwrap().sample(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generator() {
        let mut rng = Xoshiro256([1, 2, 3, 4]);
        let got: [u64; 4] = std::array::from_fn(|_| rng.next());
        assert_eq!(got, [41943041, 58720359, 3588806011781223, 3591011842654386]);
        let seeded = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        assert_eq!(Xoshiro256::new(0).0, seeded);
    }
}
