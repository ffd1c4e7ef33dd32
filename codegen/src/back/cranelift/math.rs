//! Sequences for instructions that Cranelift lacks. All take scalars or four lanes alike.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use ir::numerics::exp;

type B<'a> = FunctionBuilder<'a>;

fn int_type(b: &B<'_>, v: Value) -> Type {
    if b.func.dfg.value_type(v).is_vector() { types::I32X4 } else { types::I32 }
}

fn float_type(b: &B<'_>, v: Value) -> Type {
    if b.func.dfg.value_type(v).is_vector() { types::F32X4 } else { types::F32 }
}

/// Reinterprets the bits.
pub(super) fn bitcast(b: &mut B<'_>, ty: Type, v: Value) -> Value {
    if b.func.dfg.value_type(v) == ty {
        return v;
    }
    b.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), v)
}

/// An integer constant in the shape of `like`.
fn int(b: &mut B<'_>, like: Value, v: i32) -> Value {
    let scalar = b.ins().iconst(types::I32, i64::from(v as u32));
    if b.func.dfg.value_type(like).is_vector() { b.ins().splat(types::I32X4, scalar) } else { scalar }
}

/// Each byte with its top bit in all places.
pub(super) fn fill_bytes(b: &mut B<'_>, x: Value) -> Value {
    let ones = int(b, x, 0x0101_0101);
    let tops = b.ins().ushr_imm_u(x, 7);
    let tops = b.ins().band(tops, ones);
    // 256 times each less itself, which takes from the byte above what that has too many.
    let above = b.ins().ishl_imm_u(tops, 8);
    b.ins().isub(above, tops)
}

/// The bytes of `x` minus those of `y`, wrapping; a scalar's as those of a vector's first lane.
pub(super) fn sub_bytes(b: &mut B<'_>, x: Value, y: Value) -> Value {
    if !b.func.dfg.value_type(x).is_vector() {
        let [x, y] = [x, y].map(|v| b.ins().scalar_to_vector(types::I32X4, v));
        let all = sub_bytes(b, x, y);
        return b.ins().extractlane(all, 0);
    }
    let [x, y] = [x, y].map(|v| bitcast(b, types::I8X16, v));
    let difference = b.ins().isub(x, y);
    bitcast(b, types::I32X4, difference)
}

/// A float constant in the shape of `like`.
fn float(b: &mut B<'_>, like: Value, v: f32) -> Value {
    let scalar = b.ins().f32const(v);
    if b.func.dfg.value_type(like).is_vector() { b.ins().splat(types::F32X4, scalar) } else { scalar }
}

/// `a` where `cond`, else `c`; `cond` is an i8 for scalars, a mask for vectors.
pub(super) fn select(b: &mut B<'_>, cond: Value, a: Value, c: Value) -> Value {
    let ty = b.func.dfg.value_type(a);
    if ty.is_vector() && b.func.dfg.value_type(cond).is_vector() {
        let mask = bitcast(b, ty, cond);
        b.ins().bitselect(mask, a, c)
    } else {
        b.ins().select(cond, a, c)
    }
}

/// The larger of two floats, NaN if one is.
pub(super) fn fmax(b: &mut B<'_>, x: Value, y: Value) -> Value {
    let larger = larger(b, x, y);
    let nan = b.ins().fcmp(FloatCC::Unordered, x, x);
    select(b, nan, x, larger)
}

/// The larger of two floats, `y` if one is NaN: the forms of this and of [`fmin`] become single instructions.
fn larger(b: &mut B<'_>, x: Value, y: Value) -> Value {
    let more = b.ins().fcmp(FloatCC::LessThan, y, x);
    select(b, more, x, y)
}

/// The smaller of two floats, `y` if one is NaN.
fn fmin(b: &mut B<'_>, x: Value, y: Value) -> Value {
    let less = b.ins().fcmp(FloatCC::LessThan, x, y);
    select(b, less, x, y)
}

/// `x * y + z`, with one rounding if the target has the instruction.
pub(super) fn fma(b: &mut B<'_>, has_fma: bool, x: Value, y: Value, z: Value) -> Value {
    if has_fma {
        return b.ins().fma(x, y, z);
    }
    let product = b.ins().fmul(x, y);
    b.ins().fadd(product, z)
}

/// Nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves it in the low mantissa bits.
pub(super) fn round(b: &mut B<'_>, x: Value) -> Value {
    const MAGIC: f32 = 12_582_912.0;
    let magic = float(b, x, MAGIC);
    let sum = b.ins().fadd(x, magic);
    let ty = int_type(b, x);
    let bits = bitcast(b, ty, sum);
    let base = int(b, x, MAGIC.to_bits() as i32);
    b.ins().isub(bits, base)
}

/// e^x by the method of [`mod@exp`]: 2^n times a polynomial of the rest.
pub(super) fn exp(b: &mut B<'_>, has_fma: bool, x: Value) -> Value {
    let (low, high) = (float(b, x, exp::LOW), float(b, x, exp::HIGH));
    let x = fmin(b, high, x);
    let x = larger(b, low, x);
    let log2e = float(b, x, exp::LOG2_E);
    let scaled = b.ins().fmul(x, log2e);
    let n = round(b, scaled);
    let fty = float_type(b, x);
    let nf = b.ins().fcvt_from_sint(fty, n);
    let mut r = x;
    for part in exp::LN_2 {
        let part = float(b, x, -part);
        r = fma(b, has_fma, nf, part, r);
    }
    let [first, rest @ ..] = exp::POLYNOMIAL;
    let mut p = float(b, x, first);
    for c in rest {
        let c = float(b, x, c);
        p = fma(b, has_fma, p, r, c);
    }
    let square = b.ins().fmul(r, r);
    let p = fma(b, has_fma, p, square, r);
    let one = float(b, x, 1.0);
    let p = b.ins().fadd(p, one);
    let bias = int(b, x, 127);
    let exponent = b.ins().iadd(n, bias);
    let power = b.ins().ishl_imm_u(exponent, 23);
    let power = bitcast(b, fty, power);
    b.ins().fmul(p, power)
}

/// ln x by the method of Cephes' `logf`: x = 2^n (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2); ln x = n ln 2 + f - f^2 / 2 +
/// f^3 P(f).
pub(super) fn log(b: &mut B<'_>, has_fma: bool, x: Value) -> Value {
    const POLYNOMIAL: [f32; 9] = [
        7.037_684e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    const SUBNORMAL: i32 = 23;
    let (ity, fty) = (int_type(b, x), float_type(b, x));
    // Subnormal numbers are brought to normal ones.
    let (least, larger) = (float(b, x, f32::MIN_POSITIVE), float(b, x, (1 << SUBNORMAL) as f32));
    let small = b.ins().fcmp(FloatCC::LessThan, x, least);
    let scaled = b.ins().fmul(x, larger);
    let y = select(b, small, scaled, x);
    let bits = bitcast(b, ity, y);
    // The exponent above that of the root of a half, so that what is left is between the root and twice it.
    let root = int(b, x, std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
    let above = b.ins().isub(bits, root);
    let n = b.ins().sshr_imm_u(above, 23);
    let exponent = b.ins().ishl_imm_u(n, 23);
    let mantissa = b.ins().isub(bits, exponent);
    let (mantissa, one) = (bitcast(b, fty, mantissa), float(b, x, 1.0));
    let f = b.ins().fsub(mantissa, one);
    let (added, none) = (float(b, x, SUBNORMAL as f32), float(b, x, 0.0));
    let added = select(b, small, added, none);
    let n = b.ins().fcvt_from_sint(fty, n);
    let n = b.ins().fsub(n, added);
    let square = b.ins().fmul(f, f);
    let [first, rest @ ..] = POLYNOMIAL;
    let mut p = float(b, x, first);
    for c in rest {
        let c = float(b, x, c);
        p = fma(b, has_fma, p, f, c);
    }
    let cube = b.ins().fmul(square, f);
    let [high, low] = exp::LN_2.map(|part| float(b, x, part));
    let low = b.ins().fmul(n, low);
    let tail = fma(b, has_fma, p, cube, low);
    let minus_half = float(b, x, -0.5);
    let tail = fma(b, has_fma, square, minus_half, tail);
    let sum = b.ins().fadd(f, tail);
    let value = fma(b, has_fma, n, high, sum);
    // Infinity stays, zero gives minus infinity, and what is below zero NaN.
    let (infinity, nan) = (float(b, x, f32::INFINITY), float(b, x, f32::NAN));
    let minus = float(b, x, f32::NEG_INFINITY);
    let finite = b.ins().fcmp(FloatCC::LessThan, x, infinity);
    let value = select(b, finite, value, x);
    let positive = b.ins().fcmp(FloatCC::GreaterThan, x, none);
    let zero = b.ins().fcmp(FloatCC::Equal, x, none);
    let other = select(b, zero, minus, nan);
    select(b, positive, value, other)
}

/// The f16 in the low half to f32: exponent and mantissa move into place, a product with 2^112 mends the bias. What has the
/// largest exponent (infinities and NaN) gets that of f32.
pub(super) fn from_half(b: &mut B<'_>, bits: Value) -> Value {
    const LARGEST: i32 = 31 << 23;
    let high = b.ins().ishl_imm_u(bits, 16);
    let moved = b.ins().sshr_imm_u(high, 3);
    let mask = int(b, bits, 0x8fff_e000_u32 as i32);
    let masked = b.ins().band(moved, mask);
    let ty = float_type(b, bits);
    let v = bitcast(b, ty, masked);
    let scale = float(b, bits, f32::from_bits((127 + 112) << 23));
    let finite = b.ins().fmul(v, scale);
    let infinite = int(b, bits, f32::INFINITY.to_bits() as i32);
    let special = b.ins().bor(masked, infinite);
    let special = bitcast(b, ty, special);
    let largest = int(b, bits, LARGEST);
    let exponent = b.ins().band(masked, largest);
    let is_special = b.ins().icmp(IntCC::Equal, exponent, largest);
    select(b, is_special, special, finite)
}

/// The bf16 in the low half to f32.
pub(super) fn from_bf16(b: &mut B<'_>, bits: Value) -> Value {
    let moved = b.ins().ishl_imm_u(bits, 16);
    let ty = float_type(b, bits);
    bitcast(b, ty, moved)
}

/// f32 to f16 in the low half, ties to even (after F. Giesen, float_to_half_fast3_rtne, public domain).
pub(super) fn to_half(b: &mut B<'_>, x: Value) -> Value {
    const OVERFLOW: i32 = (127 + 16) << 23;
    const NORMAL: i32 = 113 << 23;
    const DENORMAL_MAGIC: i32 = ((127 - 15) + (23 - 10) + 1) << 23;
    let (ity, fty) = (int_type(b, x), float_type(b, x));
    let bits = bitcast(b, ity, x);
    let sign_mask = int(b, x, i32::MIN);
    let sign = b.ins().band(bits, sign_mask);
    let magnitude = b.ins().bxor(bits, sign);

    let magic = int(b, x, DENORMAL_MAGIC);
    let (as_float, magic_float) = (bitcast(b, fty, magnitude), bitcast(b, fty, magic));
    let shifted = b.ins().fadd(as_float, magic_float);
    let shifted = bitcast(b, ity, shifted);
    let denormal = b.ins().isub(shifted, magic);

    let odd = b.ins().ushr_imm_u(magnitude, 13);
    let one = int(b, x, 1);
    let odd = b.ins().band(odd, one);
    let rebias = int(b, x, ((15 - 127) << 23) + 0xfff);
    let normal = b.ins().iadd(magnitude, rebias);
    let normal = b.ins().iadd(normal, odd);
    let normal = b.ins().ushr_imm_u(normal, 13);

    let (limit, infinity, smallest) = (int(b, x, OVERFLOW), int(b, x, 0x7c00), int(b, x, NORMAL));
    let (infinite, nan) = (int(b, x, f32::INFINITY.to_bits() as i32), int(b, x, 0x7e00));
    let small = b.ins().icmp(IntCC::SignedLessThan, magnitude, smallest);
    let half = select(b, small, denormal, normal);
    let over = b.ins().icmp(IntCC::SignedGreaterThanOrEqual, magnitude, limit);
    let half = select(b, over, infinity, half);
    let is_nan = b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinite);
    let half = select(b, is_nan, nan, half);
    let sign = b.ins().ushr_imm_u(sign, 16);
    b.ins().bor(half, sign)
}

/// Per 32-bit lane, the dot of four signed bytes, plus `acc`: widen, multiply-add pairs, add pairs.
pub(super) fn dot4(b: &mut B<'_>, x: Value, y: Value, acc: Value) -> Value {
    let (x, y) = (bitcast(b, types::I8X16, x), bitcast(b, types::I8X16, y));
    let (x_low, x_high) = (b.ins().swiden_low(x), b.ins().swiden_high(x));
    let (y_low, y_high) = (b.ins().swiden_low(y), b.ins().swiden_high(y));
    let mut pairs = |x: Value, y: Value| {
        let (x_low, y_low) = (b.ins().swiden_low(x), b.ins().swiden_low(y));
        let low = b.ins().imul(x_low, y_low);
        let (x_high, y_high) = (b.ins().swiden_high(x), b.ins().swiden_high(y));
        let high = b.ins().imul(x_high, y_high);
        b.ins().iadd_pairwise(low, high)
    };
    let (low, high) = (pairs(x_low, y_low), pairs(x_high, y_high));
    let sums = b.ins().iadd_pairwise(low, high);
    b.ins().iadd(sums, acc)
}
