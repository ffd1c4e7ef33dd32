//! Random weights as blocks of a format, such that activations neither vanish nor explode: norms around 1, matrices of
//! variance 1 / columns.

use super::tables::Shape;
use ir::gguf::NewTensor;
use ir::quant::{DotForm, FloatKind, Format};
use runtime::random::Rng;
use std::io::{Result, Write};

/// Blocks of which the spread of a format's values is measured.
const SAMPLE: usize = 256;
/// Bytes made at a time.
const CHUNK: usize = 1 << 20;

/// Independent numbers for each seed and stream.
pub fn numbers(seed: u64, stream: u64) -> Rng {
    Rng::new(Rng::new(seed).next() ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

fn fill(rng: &mut Rng, out: &mut [u8]) {
    for word in out.chunks_mut(8) {
        word.copy_from_slice(&rng.next().to_le_bytes()[..word.len()]);
    }
}

/// Writes the data of a tensor. `tick` gets the bytes written since its last call, and may stop the work.
pub fn write(
    tensor: &NewTensor,
    shape: &Shape,
    rng: &mut Rng,
    out: &mut dyn Write,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut put = |bytes: &[u8]| {
        out.write_all(bytes)?;
        tick(bytes.len() as u64)
    };
    let n: usize = tensor.shape.iter().product();
    match tensor.shape[..] {
        [_] => {
            let value = |i: usize| match shape.rope_factor.filter(|_| tensor.name.starts_with("rope_freqs")) {
                Some(factor) => rope_factor(shape, factor, i),
                None if tensor.name.ends_with("bias") => rng.uniform() * 0.1,
                None => 1.0 + rng.uniform() * 0.25,
            };
            put(&(0..n).map(value).flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
        }
        [.., columns] => blocks(tensor.format, n, 1.0 / (columns as f32).sqrt(), rng, &mut put),
        [] => Ok(()),
    }
}

/// Factor of rotary frequency `i`: Llama 3.1 stretches wavelengths above its old context of 8192 and leaves those below a
/// quarter of that.
fn rope_factor(shape: &Shape, factor: u32, i: usize) -> f32 {
    const OLD_CONTEXT: f64 = 8192.0;
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let wavelength = std::f64::consts::TAU * f64::from(shape.theta).powf(2.0 * i as f64 / shape.head as f64);
    let factor = f64::from(factor);
    let turns = OLD_CONTEXT / wavelength;
    let smooth = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
    (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
}

/// `elements` values of standard deviation `spread`.
fn blocks(
    format: Format,
    elements: usize,
    spread: f32,
    rng: &mut Rng,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let bytes = format.bytes as usize;
    let set_scale = format.set_scale.map(|set| (set, spread / spread_at_one(format, set, rng)));
    let mut left = elements / format.block as usize;
    let mut buffer = Vec::new();
    while left > 0 {
        let n = left.min((CHUNK / bytes).max(1));
        buffer.resize(n * bytes, 0);
        match (format.dot, set_scale) {
            (DotForm::Float(kind), _) => floats(kind, spread * 3f32.sqrt(), &mut buffer, rng),
            (_, Some((set, scale))) => {
                fill(rng, &mut buffer);
                for block in buffer.chunks_exact_mut(bytes) {
                    if let DotForm::BlockScaled { .. } = format.dot {
                        // One of the two powers of two around, each as often as keeps the mean square.
                        let below = scale.log2().floor().exp2();
                        let often = ((scale / below).powi(2) - 1.0) / 3.0;
                        set(block, if rng.uniform() < 2.0 * often - 1.0 { 2.0 * below } else { below });
                        continue;
                    }
                    // Of both signs, as the codes of some formats have a mean that is not 0.
                    let x = rng.uniform();
                    set(block, scale * (0.75 + 0.5 * x.abs()).copysign(x));
                }
            }
            (_, None) => {}
        }
        put(&buffer)?;
        left -= n;
    }
    Ok(())
}

/// Uniform floats up to `most`.
fn floats(kind: FloatKind, most: f32, out: &mut [u8], rng: &mut Rng) {
    match kind {
        FloatKind::F32 => {
            out.chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&(rng.uniform() * most).to_le_bytes()));
        }
        FloatKind::F16 => {
            let value = |x: f32| half::f16::from_f32(x).to_le_bytes();
            out.chunks_exact_mut(2).for_each(|x| x.copy_from_slice(&value(rng.uniform() * most)));
        }
        FloatKind::Bf16 => {
            let value = |x: f32| half::bf16::from_f32(x).to_le_bytes();
            out.chunks_exact_mut(2).for_each(|x| x.copy_from_slice(&value(rng.uniform() * most)));
        }
    }
}

/// Standard deviation of the values of random blocks whose scales are set to 1.
fn spread_at_one(format: Format, set_scale: fn(&mut [u8], f32), rng: &mut Rng) -> f32 {
    let mut block = vec![0; format.bytes as usize];
    let mut values = vec![0.0; format.block as usize];
    let mut squares = 0.0;
    for _ in 0..SAMPLE {
        fill(rng, &mut block);
        set_scale(&mut block, 1.0);
        (format.decode)(&block, &mut values);
        squares += values.iter().map(|&x| f64::from(x * x)).sum::<f64>() / values.len() as f64;
    }
    (squares / SAMPLE as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::super::tables::{MIXES, SHAPES};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn values_have_the_spread_asked_for() {
        let used = MIXES.iter().flat_map(|m| m.rules.iter().map(|r| r.format).chain([m.base]));
        for format in used.collect::<HashSet<_>>() {
            for columns in [2048f32, 28672.0] {
                let (n, spread) = (256 * 512, 1.0 / columns.sqrt());
                let mut data = Vec::new();
                let mut put = |bytes: &[u8]| {
                    data.extend_from_slice(bytes);
                    Ok(())
                };
                blocks(format, n, spread, &mut numbers(1, 2), &mut put).unwrap();
                let mut values = vec![0.0; n];
                format.decode_into(&data, &mut values);
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                let rms = (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64).sqrt();
                let (mean, rms) = (mean / f64::from(spread), rms / f64::from(spread));
                assert!((rms - 1.0).abs() < 0.1 && mean.abs() < 0.05, "{format}: mean {mean}, rms {rms}");
            }
        }
    }

    #[test]
    fn rope_factors_of_llama() {
        let shape = SHAPES.iter().find(|s| s.name == "llama-8b").unwrap();
        let factors: Vec<f32> = (0..64).map(|i| rope_factor(shape, 8, i)).collect();
        assert!(factors.is_sorted() && factors[0] == 1.0 && factors[63] == 8.0);
        // Wavelengths below 2048 and above 8192.
        assert_eq!(factors.iter().filter(|&&f| f == 1.0).count(), 29);
        assert_eq!(factors.iter().filter(|&&f| f == 8.0).count(), 29);
    }
}
