//! Rotary angles, in portable code.

/// [`ir::abi::RopeAnglesFn`].
///
/// # Safety
/// `out` has `tokens * dim` floats, and `factors` is null or has `dim / 2`.
pub unsafe extern "C" fn angles(
    out: *mut f32,
    position: usize,
    tokens: usize,
    dim: usize,
    theta: f32,
    factors: *const f32,
) {
    for i in 0..dim / 2 {
        // SAFETY: the caller vouches for dim / 2 factors.
        let factor = if factors.is_null() { 1.0 } else { f64::from(unsafe { *factors.add(i) }) };
        let frequency = f64::from(theta).powf(-2.0 * i as f64 / dim as f64) / factor;
        for t in 0..tokens {
            let (sin, cos) = ((position + t) as f64 * frequency).sin_cos();
            // SAFETY: the caller vouches for tokens * dim floats.
            unsafe {
                let out = out.add(t * dim + 2 * i);
                *out = cos as f32;
                *out.add(1) = sin as f32;
            }
        }
    }
}
