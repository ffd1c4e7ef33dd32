//! Division of unsigned 32-bit numbers by a constant, as a multiplication (Granlund and Montgomery 1994).

/// floor(n / d) = the high word of n * `multiplier`, shifted; `add`: n itself belongs to the multiplier, as its 33rd bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Magic {
    pub multiplier: u32,
    pub shift: u32,
    pub add: bool,
}

/// The multiplication that divides by `d`, which is no power of two.
pub(super) fn magic(d: u32) -> Magic {
    let shift = 32 - d.leading_zeros();
    // 2^32 (2^shift - d) / d + 1 is the multiplier without its highest bit, 2^32.
    let multiplier = ((1u64 << 32) * ((1u64 << shift) - u64::from(d)) / u64::from(d) + 1) as u32;
    let full = (1u64 << 32) + u64::from(multiplier);
    // Half the multiplier, rounded either way, and one bit less to shift: if that is exact, there is no 33rd bit.
    let exact = |m: u64, s: u32| {
        // m d - 2^(32 + s) must be between 0 and 2^s (their Theorem 4.2).
        let (product, power) = (u128::from(m) * u128::from(d), 1u128 << (32 + s));
        product >= power && product - power <= 1u128 << s
    };
    let half = [full / 2, full.div_ceil(2)].into_iter().find(|&m| m >> 32 == 0 && exact(m, shift - 1));
    if let Some(m) = half {
        return Magic { multiplier: m as u32, shift: shift - 1, add: false };
    }
    Magic { multiplier, shift, add: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(n: u32, m: Magic) -> u32 {
        let high = ((u64::from(n) * u64::from(m.multiplier)) >> 32) as u32;
        if m.add { ((n - high) / 2 + high) >> (m.shift - 1) } else { high >> m.shift }
    }

    #[test]
    fn divides_as_the_machine_does() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ state >> 15
        };
        let few: Vec<u32> = (3..5000).chain((0..5000).map(|_| random() >> (random() % 31))).collect();
        for d in few.into_iter().filter(|d| *d > 2 && !d.is_power_of_two()) {
            let m = magic(d);
            let near =
                |k: u32| [k.wrapping_mul(d).wrapping_sub(1), k.wrapping_mul(d), k.wrapping_mul(d).wrapping_add(1)];
            let numbers = [0, 1, d - 1, d, u32::MAX, u32::MAX - 1].into_iter().chain(near(random() % (u32::MAX / d)));
            for n in numbers.chain((0..50).map(|_| random())) {
                assert_eq!(divide(n, m), n / d, "{n} / {d} by {m:?}");
            }
        }
    }
}
