//! Random numbers and weights of any format.

use half::f16;
use ir::quant::{self, Format};

/// `elements` random values of standard deviation about `spread`, as valid blocks of `format`.
pub fn blocks(format: Format, elements: usize, spread: f32, rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::with_capacity(format.bytes_of(elements as u64) as usize);
    let (mut block, mut values) = (vec![0; format.bytes as usize], vec![0.0; format.block as usize]);
    for _ in 0..elements / format.block as usize {
        match format.set_scale {
            None => {
                // Uniform in +-1 has a standard deviation of 1 / sqrt(3).
                let x = rng.uniform() * spread * 3f32.sqrt();
                match format.bytes {
                    4 => out.extend(x.to_le_bytes()),
                    _ if format == quant::F16 => out.extend(f16::from_f32(x).to_le_bytes()),
                    _ => out.extend(half::bf16::from_f32(x).to_le_bytes()),
                }
            }
            Some(set_scale) => {
                block.fill_with(|| rng.next() as u8);
                set_scale(&mut block, 1.0);
                (format.decode)(&block, &mut values);
                let rms = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
                let scale = spread / rms.max(f32::MIN_POSITIVE) * (1.0 + 0.5 * rng.uniform());
                set_scale(&mut block, scale);
                out.extend(&block);
            }
        }
    }
    out
}

/// Splitmix64: the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
