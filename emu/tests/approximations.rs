//! Errors of approximate instructions: chosen by their seed and by nothing else, so that a kernel which relies on exact
//! results is wrong under every schedule.

use emu::{Launch, Memory, Module, Options, Schedule};

const THREADS: usize = 256;

/// Each thread, for its number plus one as x, stores `rcp(x) * x` and `ex2(x)`.
const KERNEL: &str = "\
.version 8.6
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out)
{
.reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .f32 %f<8>;
ld.param.u64 %rd1,[out]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,8; add.s64 %rd1,%rd1,%rd2;
add.u32 %r1,%r1,1; cvt.rn.f32.u32 %f1,%r1;
rcp.approx.ftz.f32 %f2,%f1; mul.rn.f32 %f2,%f2,%f1;
mul.rn.f32 %f1,%f1,0f3C000000; ex2.approx.ftz.f32 %f3,%f1;
st.global.v2.f32 [%rd1],{%f2,%f3};
ret;
}
";

/// What the kernel stores.
fn run(approx_seed: u64, seed: u64) -> Vec<[f32; 2]> {
    let module = Module::parse(KERNEL).unwrap();
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let out = memory.alloc(8 * THREADS as u64, 256).unwrap();
    let params = out.to_le_bytes().to_vec();
    let launch = Launch { entry: "k".into(), grid: [1; 3], block: [THREADS as u32, 1, 1], dynamic_shared: 0, params };
    let options = Options { schedule: Schedule { seed }, approx_seed, ..Options::default() };
    loaded.run(&mut memory, &launch, &options).unwrap();
    let float = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    memory.read(out, 8 * THREADS as u64).unwrap().chunks(8).map(|c| [float(&c[..4]), float(&c[4..])]).collect()
}

#[test]
fn a_kernel_that_relies_on_exact_results_is_found() {
    let exact = run(0, 0);
    // A reciprocal that is rounded once, times its operand, is 1 for nearly all of these.
    assert!(exact.iter().filter(|v| v[0] == 1.0).count() > THREADS * 3 / 4);
    assert!(exact.iter().enumerate().all(|(i, v)| v[1] == (((i + 1) as f64) / 128.0).exp2() as f32));
    for approx_seed in [1, 2, 12345] {
        let got = run(approx_seed, 0);
        assert!(got.iter().filter(|v| v[0] != 1.0).count() > THREADS / 4, "approx seed {approx_seed}");
        assert!(got.iter().zip(&exact).filter(|(g, e)| g[1] != e[1]).count() > THREADS / 4);
        assert!(got.iter().zip(&exact).all(|(g, e)| (g[1] / e[1] - 1.0).abs() < 3e-7), "approx seed {approx_seed}");
    }
}

#[test]
fn errors_are_the_same_under_every_schedule_and_others_with_another_seed() {
    let all: Vec<_> = [0, 1, 2].map(|approx_seed| run(approx_seed, 0)).into();
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    for seed in [1, 7, 12345] {
        assert_eq!(run(1, seed), all[1]);
    }
}
