//! Arithmetic: functions over the 32 lanes of a warp, chosen once per instruction at decode time. A register holds its value
//! zero-extended to 64 bits; a lane function computes all lanes, and the caller keeps those that are active.

pub(crate) mod approximate;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod soft;
#[cfg(test)]
mod tests;

/// Lanes of a warp.
pub(crate) const WARP: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// A register of a warp.
pub(crate) type Lanes = [u64; WARP];

/// Three sources and a constant that the instruction carries, to a result.
pub(crate) type MapFn = fn([&Lanes; 3], &mut Lanes, u32);

/// Two sources and a constant, to the mask of lanes where it holds.
pub(crate) type TestFn = fn([&Lanes; 2], u32) -> u32;

/// A value as a register holds it.
pub(crate) trait Bits: Copy {
    fn bits(self) -> u64;
    fn of(bits: u64) -> Self;
}

macro_rules! bits {
    ($($t:ty, $u:ty;)*) => {$(
        impl Bits for $t {
            fn bits(self) -> u64 {
                u64::from(self as $u)
            }
            fn of(bits: u64) -> Self {
                bits as $t
            }
        }
    )*};
}
bits! { u8, u8; u16, u16; u32, u32; u64, u64; i8, u8; i16, u16; i32, u32; i64, u64; }

impl Bits for f32 {
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
    fn of(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
}

impl Bits for f64 {
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn of(bits: u64) -> Self {
        f64::from_bits(bits)
    }
}

/// A lane function from an expression over typed operands: `map!(u32, |a, b| a.wrapping_add(b))`. A fourth name is the
/// constant.
macro_rules! map {
    ($t:ty, |$a:ident| $e:expr) => {
        crate::alu::map!($t, |$a, _b, _c, _k| $e)
    };
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {
        crate::alu::map!($t, |$a, $b, _c, _k| $e)
    };
    ($t:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        crate::alu::map!($t, |$a, $b, $c, _k| $e)
    };
    ($t:ty, |$a:ident, $b:ident, $c:ident, $k:ident| $e:expr) => {{
        fn f(x: [&crate::alu::Lanes; 3], d: &mut crate::alu::Lanes, $k: u32) {
            for i in 0..crate::alu::WARP {
                let $a: $t = crate::alu::Bits::of(x[0][i]);
                let $b: $t = crate::alu::Bits::of(x[1][i]);
                let $c: $t = crate::alu::Bits::of(x[2][i]);
                d[i] = crate::alu::Bits::bits($e);
            }
        }
        f as crate::alu::MapFn
    }};
}
pub(crate) use map;
