//! Predicts what launches of GPU kernels take: the longer of moving their bytes and of issuing their instructions, and
//! what every launch takes beside its work. Rough, so that shares of a bound show where time goes.

use ir::artifact::KernelEntry;
use ir::target::Gpu;

/// Instructions of one lane that a multiprocessor issues in a clock.
const ISSUED: f64 = 128.0;
/// Seconds of a launch beside its work: starting, filling memory pipes, draining them. The second where it may begin while
/// the one before ends.
const OVERHEAD: [f64; 2] = [3.5e-6, 1.5e-6];

/// What decides how long a launch takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// CTAs of its grid.
    pub ctas: u32,
    /// Bytes that it moves.
    pub bytes: u64,
    /// Instructions, each counted for every lane.
    pub instructions: f64,
}

impl Cost {
    /// Of a launch of a GPU kernel at a position, with so many instructions for 32 weights; `None` if it has no grid.
    pub fn of(kernel: &KernelEntry, position: u64, per_32_weights: Option<f64>) -> Option<Cost> {
        let instructions = per_32_weights.unwrap_or(0.0) * kernel.work.products as f64 / 32.0;
        Some(Cost { ctas: kernel.grid?.ctas, bytes: kernel.work.bytes(position), instructions })
    }

    /// Seconds that the bytes take at the card's bandwidth: the roofline of a launch.
    pub fn transfer(&self, gpu: &Gpu) -> f64 {
        self.bytes as f64 / (f64::from(gpu.card.bandwidth) * 1e9)
    }

    /// Seconds in all.
    pub fn seconds(&self, gpu: &Gpu) -> f64 {
        let clocks = self.instructions / (ISSUED * f64::from(self.ctas.clamp(1, gpu.card.sms)));
        let issue = clocks / (f64::from(gpu.card.clock) * 1e6);
        self.transfer(gpu).max(issue) + OVERHEAD[usize::from(gpu.overlaps())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::target::Target;

    #[test]
    fn the_longer_of_bytes_and_instructions() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < b * 1e-9, "{a} is not {b}");
        let (old, new) = (Target::by_name("sm_89").unwrap(), Target::by_name("sm_120").unwrap());
        let (old, new) = (old.gpu().unwrap(), new.gpu().unwrap());
        let bytes = Cost { ctas: 170, bytes: 1_792_000_000, instructions: 1e6 };
        near(bytes.transfer(new), 1e-3);
        near(bytes.seconds(new), 1e-3 + 1.5e-6);
        near(bytes.seconds(old), 1.792 / 1008.0 + 3.5e-6);
        // 170 multiprocessors at 2407 MHz; half of them take twice the time, and more CTAs do not help.
        let busy = Cost { ctas: 170, bytes: 1, instructions: 128.0 * 170.0 * 2407e6 };
        near(busy.seconds(new), 1.0 + 1.5e-6);
        near(Cost { ctas: 85, ..busy }.seconds(new), 2.0 + 1.5e-6);
        near(Cost { ctas: 500, ..busy }.seconds(new), 1.0 + 1.5e-6);
    }
}
