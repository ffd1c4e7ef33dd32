//! Small kernels of one warp, one for each part of the ISA, against values worked out here.

use emu::{Launch, Memory, Module, Options, Schedule};

/// Runs a kernel body in a warp of 32 threads (`%r1` is the lane, `%rd1` the address of its 16 bytes of output, `%rd2` that
/// of 1 KiB of counting bytes) and gives the four words of each lane. `top` stands before the kernel.
fn run(top: &str, body: &str) -> Vec<[u32; 4]> {
    run_on("sm_90", top, body)
}

fn run_on(target: &str, top: &str, body: &str) -> Vec<[u32; 4]> {
    // The first version that has all that is tested for the target.
    let version = if target == "sm_120" { "8.8" } else { "8.6" };
    let text = format!(
        "\
.version {version}
.target {target}
.address_size 64
{top}
.visible .entry k(.param .u64 out, .param .u64 in)
{{
.reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .b64 %rd<32>; .reg .f32 %f<32>; .reg .f64 %fd<8>;
.shared .align 16 .b8 s[2048];
ld.param.u64 %rd1,[out]; ld.param.u64 %rd2,[in];
mov.u32 %r1,%tid.x; mul.wide.u32 %rd3,%r1,16; add.s64 %rd1,%rd1,%rd3;
{body}
ret;
}}
"
    );
    if let Some(dir) = std::env::var_os("RIGC_KEEP_PTX") {
        let at = text.bytes().fold(5381u64, |h, b| h.wrapping_mul(33) ^ u64::from(b));
        std::fs::write(std::path::Path::new(&dir).join(format!("{target}-{at:x}.ptx")), &text).unwrap();
    }
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let mut results = Vec::new();
    for seed in 0..3 {
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let out = memory.alloc_with(vec![0; 512], 256).unwrap();
        let input = memory.alloc_with((0..1024).map(|i| i as u8).collect(), 256).unwrap();
        let params = [out, input].iter().flat_map(|a| a.to_le_bytes()).collect();
        let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
        let options = Options { schedule: Schedule { seed }, max_steps: 1 << 20, ..Options::default() };
        loaded.run(&mut memory, &launch, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{body}"));
        let words = memory.read(out, 512).unwrap();
        let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
        results.push(words.chunks(16).map(|c| std::array::from_fn(|i| word(&c[4 * i..4 * i + 4]))).collect::<Vec<_>>());
    }
    assert!(results.windows(2).all(|w| w[0] == w[1]), "schedules differ\n{body}");
    results.remove(0)
}

/// Checks the first word of each lane.
fn first(top: &str, body: &str, want: impl Fn(u32) -> u32) {
    for (lane, got) in run(top, body).iter().enumerate() {
        assert_eq!(got[0], want(lane as u32), "lane {lane}\n{body}");
    }
}

#[test]
fn functions_take_and_return_values() {
    let top = "\
.func (.param .b32 out) add3(.param .b32 a, .param .align 8 .b8 pair[8])
{
.reg .b32 %r<8>; .reg .b64 %rd<2>;
ld.param.u32 %r1,[a]; ld.param.v2.u32 {%r2,%r3},[pair];
add.u32 %r1,%r1,%r2; add.u32 %r1,%r1,%r3;
st.param.b32 [out],%r1;
ret;
}
.func (.param .b32 out) factorial(.param .b32 n)
{
.reg .b32 %r<8>; .reg .pred %p<2>;
ld.param.u32 %r1,[n];
mov.u32 %r2,1;
setp.lt.u32 %p1,%r1,2;
@%p1 bra OUT;
sub.u32 %r3,%r1,1;
{
.param .b32 a0; .param .b32 r0;
st.param.b32 [a0],%r3;
call.uni (r0), factorial, (a0);
ld.param.b32 %r2,[r0];
}
mul.lo.u32 %r2,%r2,%r1;
OUT:
st.param.b32 [out],%r2;
ret;
}
.func (.reg .b32 out) twice(.reg .b32 a)
{
add.u32 out,a,a;
}";
    let body = "\
{
.param .b32 p0; .param .align 8 .b8 p1[8]; .param .b32 r0;
st.param.b32 [p0],%r1; st.param.v2.b32 [p1],{%r1,100};
call.uni (r0), add3, (p0, p1);
ld.param.b32 %r2,[r0];
}
st.global.u32 [%rd1],%r2;
and.b32 %r3,%r1,7;
{
.param .b32 p0; .param .b32 r0;
st.param.b32 [p0],%r3;
call (r0), factorial, (p0);
ld.param.b32 %r4,[r0];
}
st.global.u32 [%rd1+4],%r4;
setp.gt.u32 %p1,%r1,9;
mov.u32 %r5,0;
@%p1 call (%r5), twice, (%r1);
st.global.u32 [%rd1+8],%r5;";
    for (lane, got) in run(top, body).iter().enumerate() {
        let n = lane as u32;
        let factorial = (1..=n % 8).product::<u32>();
        assert_eq!(got[..3], [2 * n + 100, factorial, if n > 9 { 2 * n } else { 0 }], "lane {lane}");
    }
}

#[test]
fn branches_diverge_and_meet() {
    let table = "\
and.b32 %r2,%r1,3;
ts: .branchtargets A, B, C, D;
brx.idx %r2,ts;
A: mov.u32 %r3,10; bra E;
B: mov.u32 %r3,20; bra E;
C: mov.u32 %r3,30; bra E;
D: mov.u32 %r3,40;
E: bar.sync 0;
st.global.u32 [%rd1],%r3;";
    first("", table, |lane| [10, 20, 30, 40][lane as usize & 3]);
    // Collatz steps: loops of different lengths, then all together.
    let collatz = "\
add.u32 %r2,%r1,1; mov.u32 %r3,0;
L: setp.eq.u32 %p1,%r2,1;
@%p1 bra E;
and.b32 %r4,%r2,1; setp.eq.u32 %p2,%r4,0;
@%p2 shr.u32 %r2,%r2,1;
@!%p2 mad.lo.u32 %r2,%r2,3,1;
add.u32 %r3,%r3,1;
bra L;
E: bar.warp.sync 0xffffffff;
activemask.b32 %r5;
st.global.v2.u32 [%rd1],{%r3,%r5};";
    for (lane, got) in run("", collatz).iter().enumerate() {
        let (mut n, mut steps) = (lane as u32 + 1, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        assert_eq!(got[..2], [steps, u32::MAX], "lane {lane}");
    }
    // Some exit early; the others vote among themselves.
    let exits = "\
st.global.u32 [%rd1],7;
setp.lt.u32 %p1,%r1,5;
@%p1 exit;
setp.gt.u32 %p2,%r1,20;
vote.sync.ballot.b32 %r2,%p2,0xffffffe0;
st.global.u32 [%rd1],%r2;";
    first("", exits, |lane| if lane < 5 { 7 } else { 0xffe0_0000 });
    // Some exit while the others, which have to be alone then, wait for all.
    let late = "\
st.global.u32 [%rd1],7;
setp.ge.u32 %p1,%r1,2;
@%p1 bra OUT;
bar.warp.sync 0xffffffff;
st.global.u32 [%rd1],9;
OUT:";
    first("", late, |lane| if lane < 2 { 9 } else { 7 });
}

#[test]
fn variables_have_their_initial_values_and_addresses() {
    let top = "\
.global .align 4 .u32 words[4] = {1, 2, 0xff, -1};
.global .align 8 .u64 pointers[2] = {words, generic(words)+8};
.const .align 4 .f32 table[2] = {0f3F800000, 2.5};
.global .align 1 .b8 zeros[8];
.global .align 2 .b16 halves[] = {0x1234, 5};";
    let body = "\
mov.u64 %rd4,pointers; ld.global.u64 %rd5,[%rd4+8]; ld.u32 %r2,[%rd5];
ld.global.u32 %r3,[words+12];
ld.const.f32 %f1,[table+4]; mov.b32 %r4,%f1;
ld.global.u16 %r5,[halves]; ld.global.b8 %r6,[zeros+7]; add.u32 %r5,%r5,%r6;
st.global.v4.u32 [%rd1],{%r2,%r3,%r4,%r5};";
    for got in run(top, body) {
        assert_eq!(got, [0xff, u32::MAX, 2.5f32.to_bits(), 0x1234]);
    }
}

#[test]
fn spaces_have_generic_addresses() {
    let body = "\
.local .align 8 .b8 l[16];
shl.b32 %r2,%r1,2; mov.u32 %r3,s; add.u32 %r3,%r3,%r2; cvt.u64.u32 %rd4,%r3; cvta.shared.u64 %rd4,%rd4;
st.u32 [%rd4],%r1;
cvta.to.shared.u64 %rd5,%rd4; cvt.u32.u64 %r4,%rd5; ld.shared.u32 %r5,[%r4];
mov.u64 %rd6,l; cvta.local.u64 %rd6,%rd6; st.u32 [%rd6+4],%r1; ld.local.u32 %r6,[l+4];
isspacep.shared %p1,%rd4; isspacep.global %p2,%rd1; isspacep.local %p3,%rd4;
selp.u32 %r7,1,0,%p1; selp.u32 %r8,2,0,%p2; selp.u32 %r9,4,0,%p3; or.b32 %r7,%r7,%r8; or.b32 %r7,%r7,%r9;
atom.add.u32 %r10,[%rd4],5; ld.u32 %r11,[%rd4];
st.global.v4.u32 [%rd1],{%r5,%r6,%r7,%r11};";
    for (lane, got) in run("", body).iter().enumerate() {
        assert_eq!(*got, [lane as u32, lane as u32, 3, lane as u32 + 5], "lane {lane}");
    }
}

#[test]
fn loads_extend_and_vectors_fit() {
    let body = "\
cvt.u64.u32 %rd4,%r1; shl.b64 %rd5,%rd4,3; add.s64 %rd5,%rd5,%rd2;
ld.global.s8 %r2,[%rd5+128]; ld.global.u8 %r3,[%rd5+128]; ld.global.s16 %r4,[%rd5];
ld.global.nc.L1::no_allocate.L2::128B.v4.u8 {%h1,%h2,%h3,%h4},[%rd5+4]; cvt.u32.u16 %r5,%h4;
st.global.v4.u32 [%rd1],{%r2,%r3,%r4,%r5};";
    for (lane, got) in run("", body).iter().enumerate() {
        let byte = |i: usize| (8 * lane + i) as u8;
        let want = [i32::from(byte(128) as i8) as u32, byte(128).into(), 0, byte(7).into()];
        let half = i16::from_le_bytes([byte(0), byte(1)]);
        assert_eq!(*got, [want[0], want[1], i32::from(half) as u32, want[3]], "lane {lane}");
    }
    let wide = "\
mul.wide.u32 %rd4,%r1,32; add.s64 %rd4,%rd4,%rd2;
ld.global.v8.b32 {%r2,%r3,%r4,%r5,%r6,%r7,%r8,%r9},[%rd4];
st.global.v4.u32 [%rd1],{%r2,%r5,%r8,%r9};";
    let wide = run_on("sm_120", "", wide);
    let pairs = "\
cvt.rn.f32.u32 %f1,%r1; mov.f32 %f2,0f3F000000; mov.b64 %rd4,{%f1,%f2}; mov.b64 %rd5,{%f2,%f2};
fma.rn.f32x2 %rd6,%rd4,%rd5,%rd4; mov.b64 {%f3,%f4},%rd6;
st.global.v2.f32 [%rd1],{%f3,%f4};";
    for (lane, got) in run_on("sm_120", "", pairs).iter().enumerate() {
        assert_eq!(got[..2], [1.5 * lane as f32, 0.75].map(f32::to_bits), "lane {lane}");
    }
    let word = |lane: usize, i: usize| u32::from_le_bytes(std::array::from_fn(|b| (32 * lane + 4 * i + b) as u8));
    for (lane, got) in wide.iter().enumerate() {
        assert_eq!(*got, [0, 3, 6, 7].map(|i| word(lane, i)), "lane {lane}");
    }
}

#[test]
fn lanes_exchange() {
    first(
        "",
        "shfl.sync.down.b32 %r2|%p1,%r1,3,0x1f,0xffffffff; selp.u32 %r2,%r2,99,%p1; st.global.u32 [%rd1],%r2;",
        |l| {
            if l + 3 < 32 { l + 3 } else { 99 }
        },
    );
    first("", "shfl.sync.up.b32 %r2,%r1,1,0x1800,0xffffffff; st.global.u32 [%rd1],%r2;", |l| {
        if l % 8 == 0 { l } else { l - 1 }
    });
    first("", "shfl.sync.idx.b32 %r2,%r1,2,0x1c1f,0xffffffff; st.global.u32 [%rd1],%r2;", |l| (l & !3) | 2);
    first("", "and.b32 %r2,%r1,3; match.any.sync.b32 %r3,%r2,0xffffffff; st.global.u32 [%rd1],%r3;", |l| {
        0x1111_1111 << (l % 4)
    });
    first("", "match.all.sync.b32 %r3|%p1,7,0xffffffff; selp.u32 %r2,%r3,1,%p1; st.global.u32 [%rd1],%r2;", |_| {
        u32::MAX
    });
    first("", "sub.u32 %r2,%r1,9; redux.sync.min.s32 %r3,%r2,0xffffffff; st.global.u32 [%rd1],%r3;", |_| {
        (-9i32) as u32
    });
    first(
        "",
        "elect.sync _|%p1,0xffffffff; selp.u32 %r2,1,0,%p1; redux.sync.add.u32 %r3,%r2,0xffffffff; st.global.u32 [%rd1],%r3;",
        |_| 1,
    );
    first(
        "",
        "mov.u32 %r2,%lanemask_gt; mov.u32 %r3,%lanemask_le; xor.b32 %r2,%r2,%r3; st.global.u32 [%rd1],%r2;",
        |_| u32::MAX,
    );
    first(
        "",
        "setp.lt.u32 %p1,%r1,10; bar.red.popc.u32 %r2,0,%p1; bar.red.or.pred %p2,0,%p1; bar.red.and.pred %p3,0,%p1; selp.u32 %r3,100,0,%p2; selp.u32 %r4,1000,0,%p3; add.u32 %r2,%r2,%r3; add.u32 %r2,%r2,%r4; st.global.u32 [%rd1],%r2;",
        |_| 110,
    );
    first(
        "",
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; mov.u32 %r2,%cluster_nctaid.x; st.global.u32 [%rd1],%r2;",
        |_| 1,
    );
}

#[test]
fn atomics_return_what_was_there() {
    let top = ".global .align 8 .u32 c[8] = {5, 5, 5, 5, 5, 5, 5, 5};";
    let lane0 =
        |body: &str| run(top, &format!("setp.ne.u32 %p9,%r1,0; @%p9 bra DONE; mov.u64 %rd4,c;\n{body}\nDONE:"))[0];
    let got = lane0(
        "atom.global.inc.u32 %r2,[%rd4],5; atom.global.dec.u32 %r3,[%rd4+4],3; atom.global.cas.b32 %r4,[%rd4+8],5,9; atom.global.exch.b64 %rd5,[%rd4+16],77;
ld.global.u32 %r5,[%rd4]; ld.global.u32 %r6,[%rd4+4]; ld.global.u32 %r7,[%rd4+8]; ld.global.u32 %r8,[%rd4+16];
st.global.v4.u32 [%rd1],{%r5,%r6,%r7,%r8};",
    );
    assert_eq!(got, [0, 3, 9, 77]);
    let got = lane0(
        "mov.b32 %r9,0x40003c00; st.global.u32 [%rd4],%r9; red.global.add.noftz.f16x2 [%rd4],%r9; ld.global.u32 %r5,[%rd4];
mov.f32 %f1,0f3fc00000; st.global.f32 [%rd4+4],%f1; atom.global.add.f32 %f2,[%rd4+4],%f1; ld.global.u32 %r6,[%rd4+4];
red.global.min.s32 [%rd4+8],-3; ld.global.u32 %r7,[%rd4+8]; red.global.max.u32 [%rd4+12],9; ld.global.u32 %r8,[%rd4+12];
st.global.v4.u32 [%rd1],{%r5,%r6,%r7,%r8};",
    );
    assert_eq!(got, [0x4400_4000, 3f32.to_bits(), (-3i32) as u32, 9]);
}

#[test]
fn matrices_move() {
    // ldmatrix of a matrix of counting numbers; movmatrix and .trans agree; stmatrix writes it back.
    let body = "\
mov.u32 %r2,s; shl.b32 %r3,%r1,2; add.u32 %r4,%r2,%r3;
shl.b32 %r5,%r1,1; add.u32 %r6,%r5,1; shl.b32 %r6,%r6,16; or.b32 %r5,%r5,%r6; st.shared.u32 [%r4],%r5;
bar.warp.sync 0xffffffff;
and.b32 %r7,%r1,7; shl.b32 %r7,%r7,4; add.u32 %r7,%r7,%r2;
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r8},[%r7];
ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r9},[%r7];
movmatrix.sync.aligned.m8n8.trans.b16 %r10,%r8;
stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r7+128],{%r9};
bar.warp.sync 0xffffffff;
ld.shared.u32 %r11,[%r4+128];
st.global.v4.u32 [%rd1],{%r8,%r9,%r10,%r11};";
    for (lane, got) in run("", body).iter().enumerate() {
        let at = |row: usize, column: usize| (8 * row + column) as u32;
        let plain = at(lane / 4, 2 * (lane % 4)) | at(lane / 4, 2 * (lane % 4) + 1) << 16;
        let turned = at(2 * (lane % 4), lane / 4) | at(2 * (lane % 4) + 1, lane / 4) << 16;
        assert_eq!(*got, [plain, turned, turned, plain], "lane {lane}");
    }
}

#[test]
fn copies_fill_what_they_do_not_read_with_zeros() {
    let body = "\
mov.u32 %r2,s; shl.b32 %r3,%r1,4; add.u32 %r4,%r2,%r3; mul.wide.u32 %rd4,%r1,16; add.s64 %rd4,%rd4,%rd2;
and.b32 %r5,%r1,15;
cp.async.cg.shared.global [%r4],[%rd4],16,%r5;
cp.async.wait_all;
ld.shared.v4.u32 {%r6,%r7,%r8,%r9},[%r4];
st.global.v4.u32 [%rd1],{%r6,%r7,%r8,%r9};";
    for (lane, got) in run("", body).iter().enumerate() {
        let byte = |i: usize| if i < lane % 16 { (16 * lane + i) as u8 } else { 0 };
        let want: [u32; 4] = std::array::from_fn(|w| u32::from_le_bytes(std::array::from_fn(|b| byte(4 * w + b))));
        assert_eq!(*got, want, "lane {lane}");
    }
}

#[test]
fn an_mbarrier_counts_phases_by_state_and_by_parity() {
    let body = "\
mov.u32 %r2,s; setp.eq.u32 %p1,%r1,0;
@%p1 mbarrier.init.shared::cta.b64 [%r2],32;
bar.warp.sync 0xffffffff;
mov.u32 %r3,0;
L: mbarrier.arrive.shared::cta.b64 %rd4,[%r2];
W: mbarrier.test_wait.shared::cta.b64 %p2,[%r2],%rd4;
@!%p2 bra W;
and.b32 %r4,%r3,1;
V: mbarrier.try_wait.parity.shared::cta.b64 %p3,[%r2],%r4;
@!%p3 bra V;
add.u32 %r3,%r3,1; setp.lt.u32 %p4,%r3,5;
@%p4 bra L;
mbarrier.pending_count.b64 %r5,%rd4;
st.global.v2.u32 [%rd1],{%r3,%r5};";
    for got in run("", body) {
        assert_eq!(got[0], 5);
        assert!((1..=32).contains(&got[1]));
    }
}

#[test]
fn carries_and_odd_instructions() {
    let body = "\
add.cc.u32 %r2,0xffffffff,%r1; addc.u32 %r3,0,0;
sub.cc.u32 %r4,%r1,1; subc.u32 %r5,0,0;
st.global.v4.u32 [%rd1],{%r2,%r3,%r4,%r5};";
    for (lane, got) in run("", body).iter().enumerate() {
        let l = lane as u32;
        let want = [l.wrapping_sub(1), u32::from(l > 0), l.wrapping_sub(1), if l == 0 { u32::MAX } else { 0 }];
        assert_eq!(*got, want, "lane {lane}");
    }
    first("", "sub.u32 %r2,%r1,3; slct.u32.s32 %r3,1,2,%r2; st.global.u32 [%rd1],%r3;", |l| if l >= 3 { 1 } else { 2 });
    first(
        "",
        "setp.gt.and.u32 %p1|%p2,%r1,4,%p0; mov.pred %p0,1; setp.gt.and.u32 %p1|%p2,%r1,4,!%p0; setp.gt.or.u32 %p3|%p4,%r1,4,%p1; selp.u32 %r2,1,0,%p3; selp.u32 %r3,2,0,%p4; or.b32 %r2,%r2,%r3; st.global.u32 [%rd1],%r2;",
        |l| if l > 4 { 1 } else { 2 },
    );
    first("", "set.lt.u32.u32 %r2,%r1,7; st.global.u32 [%rd1],%r2;", |l| if l < 7 { u32::MAX } else { 0 });
    first(
        "",
        "mov.b64 %rd4,{%r1,7}; mov.b64 {%r2,%r3},%rd4; mov.b32 {%h1,%h2},%r2; mov.b32 %r4,{%h2,%h1}; add.u32 %r4,%r4,%r3; st.global.u32 [%rd1],%r4;",
        |l| (l << 16) + 7,
    );
    first("", "cvt.pack.sat.u8.s32.b32 %r2,300,%r1,0; st.global.u32 [%rd1],%r2;", |l| 0xff00 | l);
    first(
        "",
        "cvt.rn.f32.u32 %f1,%r1; testp.normal.f32 %p1,%f1; copysign.f32 %f2,0fBF800000,%f1; mov.b32 %r2,%f2; selp.u32 %r2,%r2,0,%p1; st.global.u32 [%rd1],%r2;",
        |l| (l as f32).to_bits() | 1 << 31,
    );
    first(
        "",
        "{ .reg .b32 %r1x; mov.u32 %r1x,5; { .reg .b32 %r1x; mov.u32 %r1x,6; add.u32 %r2,%r1,%r1x; } add.u32 %r2,%r2,%r1x; } st.global.u32 [%rd1],%r2;",
        |l| l + 11,
    );
    first(
        "",
        "mov.u32 %r2,%ntid.x; mov.u32 %r3,%total_smem_size; add.u32 %r2,%r2,%r3; mov.u32 %r4,%warpid; add.u32 %r2,%r2,%r4; st.global.u32 [%rd1],%r2;",
        |_| 2048 + 32,
    );
    first("", "lop3.or.b32 %r2|%p1,%r1,0xf,0,0xc0,0; selp.u32 %r2,1,0,%p1; st.global.u32 [%rd1],%r2;", |l| {
        u32::from(l & 15 != 0)
    });
    first("", "cvt.s8.s32 %r2,%r1; mul.lo.s32 %r3,%r1,9; cvt.s32.s8 %r3,%r3; st.global.u32 [%rd1],%r3;", |l| {
        i32::from((l * 9) as i8) as u32
    });
}

/// One word in every lane: what an instruction makes of `%r2`, `%r3` and `%r4`.
fn one(instruction: &str, sources: [u32; 3]) -> u32 {
    let moves: String = sources.iter().enumerate().map(|(i, v)| format!("mov.u32 %r{},{v};\n", i + 2)).collect();
    let got = run("", &format!("{moves}{instruction}\nst.global.u32 [%rd1],%r5;"));
    assert!(got.iter().all(|w| w[0] == got[0][0]), "{instruction}");
    got[0][0]
}

#[test]
fn rare_integer_instructions() {
    let minus = |n: i32| n as u32;
    for (instruction, sources, want) in [
        ("max.s16x2.relu %r5,%r2,%r3;", [0x0005_fffe, 0xfff0_fff0, 0], 0x0005_0000),
        ("min.relu.s16x2 %r5,%r2,%r3;", [0x0005_0007, 0xfff0_0003, 0], 0x0000_0003),
        ("max.s32.relu %r5,%r2,%r3;", [minus(-5), minus(-3), 0], 0),
        ("min.s32.relu %r5,%r2,%r3;", [5, 3, 0], 3),
        ("mad24.hi.u32 %r5,%r2,%r3,%r4;", [0xff80_0001, 0x00ff_fff0, 9], ((0x80_0001u64 * 0xff_fff0) >> 16) as u32 + 9),
        ("mad24.hi.s32 %r5,%r2,%r3,%r4;", [0x0080_0000, 0x0040_0000, 9], minus(-(1 << 29)) + 9),
        ("mad24.hi.sat.s32 %r5,%r2,%r3,%r4;", [0x0080_0000, 0x0080_0000, 0x7fff_ffff], 0x7fff_ffff),
        ("szext.wrap.u32 %r5,%r2,%r3;", [0xffff_ffff, 36, 0], 15),
        ("szext.wrap.s32 %r5,%r2,%r3;", [0x0000_0008, 36, 0], 0xffff_fff8),
        ("szext.wrap.s32 %r5,%r2,%r3;", [0x0000_0008, 32, 0], 0),
        ("szext.clamp.s32 %r5,%r2,%r3;", [0x0000_0008, 32, 0], 8),
        ("bmsk.wrap.b32 %r5,%r2,%r3;", [36, 3, 0], 0x70),
        // The n-th set bit from a position on, upwards or downwards.
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 0, 1], 2),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 3, 2], 5),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 5, minus(-2)], 4),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 4, 0], 4),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 3, 0], u32::MAX),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 6, 2], u32::MAX),
        ("fns.b32 %r5,%r2,%r3,%r4;", [0b1011_0100, 32, 1], u32::MAX),
        ("fns.b32 %r5,%r2,%r3,%r4;", [u32::MAX, 0, 0x8000_0000], u32::MAX),
        ("cvt.pack.sat.s4.s32.b32 %r5,%r2,%r3,%r4;", [100, minus(-3), 0x1234_5678], 0x3456_787d),
        ("cvt.pack.sat.u4.s32.b32 %r5,%r2,%r3,%r4;", [100, minus(-3), 0x1234_5678], 0x3456_78f0),
        ("cvt.pack.sat.s2.s32.b32 %r5,%r2,%r3,%r4;", [100, minus(-3), 0x1234_5678], 0x2345_6786),
        ("cvt.pack.sat.u2.s32.b32 %r5,%r2,%r3,%r4;", [100, 2, 0x1234_5678], 0x2345_678e),
    ] {
        assert_eq!(one(instruction, sources), want, "{instruction} {sources:x?}");
    }
}

#[test]
fn video_instructions() {
    let minus = |n: i32| n as u32;
    for (instruction, sources, want) in [
        ("vadd.s32.s32.s32 %r5,%r2.b0,%r3.h1;", [0x80, 0xfffe_0000, 0], minus(-130)),
        ("vadd.u32.u32.u32.sat %r5,%r2,%r3;", [0xffff_fff0, 0x20, 0], u32::MAX),
        ("vadd.s32.u32.u32.sat %r5,%r2,%r3;", [0xffff_fff0, 0x20, 0], 0x7fff_ffff),
        ("vsub.u32.u32.u32.sat %r5,%r2,%r3;", [3, 5, 0], 0),
        ("vsub.s32.u32.u32 %r5,%r2,%r3;", [3, 5, 0], minus(-2)),
        ("vabsdiff.s32.s32.s32 %r5,%r2,%r3;", [minus(-3), 5, 0], 8),
        ("vabsdiff.u32.u32.s32 %r5,%r2,%r3;", [0xffff_ffff, 0xffff_ffff, 0], 0),
        ("vmin.s32.s32.u32 %r5,%r2,%r3;", [minus(-3), 5, 0], minus(-3)),
        ("vmax.u32.u32.u32.add %r5,%r2.b3,%r3.b0,%r4;", [0x7f00_0000, 0x80, 1000], 1128),
        ("vadd.s32.s32.s32.min %r5,%r2,%r3,%r4;", [1, 2, minus(-9)], minus(-9)),
        ("vadd.u32.u32.u32.max %r5,%r2,%r3,%r4;", [1, 2, minus(-9)], minus(-9)),
        ("vadd.s32.s32.s32.sat %r5.b1,%r2,%r3,%r4;", [100, 100, 0x1111_1111], 0x1111_7f11),
        ("vsub.u32.u32.u32.sat %r5.h1,%r2,%r3,%r4;", [0x1_0000, 0, 0x1111_1111], 0xffff_1111),
        ("vadd.u32.u32.u32 %r5.h0,%r2,%r3,%r4;", [0x1_0001, 1, 0x1111_1111], 0x1111_0002),
        ("vset.s32.s32.lt %r5,%r2,%r3;", [minus(-1), 1, 0], 1),
        ("vset.u32.u32.lt %r5,%r2,%r3;", [minus(-1), 1, 0], 0),
        ("vset.s32.u32.ge.add %r5,%r2.b1,%r3.b1,%r4;", [0x0000_7f00, 0x0000_7f00, 41], 42),
        ("vshl.u32.u32.u32.clamp %r5,%r2,%r3;", [0xff, 40, 0], 0),
        ("vshl.u32.u32.u32.wrap %r5,%r2,%r3;", [0xff, 40, 0], 0xff00),
        ("vshl.u32.u32.u32.sat.clamp %r5,%r2,%r3;", [0xff, 28, 0], u32::MAX),
        ("vshr.s32.s32.u32.clamp %r5,%r2,%r3;", [0x8000_0000, 40, 0], u32::MAX),
        ("vshr.u32.u32.u32.wrap %r5,%r2,%r3.h1;", [0x8000_0000, 0x0021_0000, 0], 0x4000_0000),
        ("vmad.s32.s32.s32 %r5,%r2.h0,%r3.b0,%r4;", [0xffff_fffd, 0x85, 7], 3 * 0x7b + 7),
        ("vmad.u32.u32.u32.po.shr7 %r5,%r2,%r3,%r4;", [1000, 1000, 23], 1_000_024 >> 7),
        ("vmad.u32.u32.u32.shr15 %r5,%r2,%r3,%r4;", [u32::MAX, u32::MAX, 0], (0xffff_fffe_0000_0001u64 >> 15) as u32),
        ("vmad.s32.u32.u32.sat %r5,-%r2,%r3,%r4;", [0x8000_0000, 2, 5], 0x8000_0000),
        ("vmad.u32.u32.u32 %r5,%r2,%r3,-%r4;", [5, 6, 31], minus(-1)),
        ("vadd2.s32.s32.s32 %r5,%r2,%r3,%r4;", [0x7fff_0001, 0x0001_ffff, 0], 0x8000_0000),
        ("vadd2.s32.s32.s32.sat %r5,%r2,%r3,%r4;", [0x7fff_0001, 0x0001_ffff, 0], 0x7fff_0000),
        ("vsub2.u32.u32.u32.sat %r5.h1,%r2.h01,%r3,%r4;", [0x0001_0005, 0x0002_0002, 0x0000_abcd], 0x0003_abcd),
        ("vavrg2.s32.s32.s32 %r5,%r2,%r3,%r4;", [0x0003_fffd, 0x0004_fffc, 0], 0x0004_fffc),
        ("vavrg4.u32.u32.u32 %r5,%r2,%r3,%r4;", [0xff01_0203, 0xff02_0205, 0], 0xff02_0204),
        ("vadd4.s32.s32.s32.add %r5,%r2,%r3,%r4;", [0x0102_03ff, 0x0101_01ff, 100], 107),
        ("vabsdiff4.u32.u32.u32 %r5,%r2,%r3,%r4;", [0xff00_0510, 0x00ff_0a05, 0], 0xffff_050b),
        ("vabsdiff4.u32.u32.u32.add %r5,%r2,%r3,%r4;", [0xff00_0510, 0x00ff_0a05, 1], 527),
        ("vabsdiff4.u32.u32.u32.add %r5.b20,%r2,%r3,%r4;", [0xff00_0510, 0x00ff_0a05, 1], 267),
        ("vmin4.s32.s32.s32 %r5,%r2,%r3,%r4;", [0x80ff_7f01, 0x0000_0000, 9], 0x80ff_0000),
        ("vmax4.u32.u32.u32 %r5,%r2.b0123,%r3.b4567,%r4;", [0x0102_0304, 0x0400_0201, 9], 0x0403_0204),
        ("vset4.u32.u32.lt %r5,%r2,%r3,%r4;", [0x0102_0304, 0x0202_0401, 0], 0x0100_0100),
        ("vset2.s32.s32.ne.add %r5,%r2,%r3,%r4;", [0x0001_ffff, 0x0002_ffff, 40], 41),
    ] {
        assert_eq!(one(instruction, sources), want, "{instruction} {sources:x?}");
    }
}

#[test]
fn constants_are_computed() {
    for (text, want) in [
        ("WARP_SZ", 32i64),
        ("(1+2)*3", 9),
        ("(4-1)", 3),
        ("1<<4", 16),
        ("-1>>1", -1),
        ("0xffffffffffffffff>>63", 1),
        ("(.u64)-1>>63", 1),
        ("~0&0xff|0x100^0x1", 0x1ff),
        ("7/2*2%5", 1),
        ("17 % 5 % 0x2", 0),
        ("-7/2", -3),
        ("2+3*4-5", 9),
        ("1<2==1", 1),
        ("3>4||2>=2&&!0", 1),
        ("0?5:1?6:7", 6),
        ("(.s64)-1<0", 1),
        ("0xffffffffffffffff<1", 0),
        ("1<<64", 0),
        ("10-4-3", 3),
        ("!1!=-(-1)", 1),
    ] {
        let body = format!("mov.u32 %r2,{text}; st.global.u32 [%rd1],%r2;");
        first("", &body, |_| want as u32);
    }
    let top = ".global .align 4 .u32 a[WARP_SZ/8] = {1+1, WARP_SZ, (3)*4, -1+3};";
    first(
        top,
        "ld.global.u32 %r2,[a+2*4]; ld.global.u32 %r3,[a+8-4]; add.u32 %r2,%r2,%r3; st.global.u32 [%rd1],%r2;",
        |_| 44,
    );
}

#[test]
fn registers_that_nothing_sets_are_zero() {
    let names = "%tid.w %ntid.w %ctaid.w %nctaid.w %clusterid.w %envreg0 %envreg31 %pm7 %reserved_smem_offset_begin \
                 %reserved_smem_offset_end %reserved_smem_offset_cap %reserved_smem_offset_1";
    for name in names.split_whitespace() {
        first("", &format!("mov.u32 %r2,{name}; st.global.u32 [%rd1],%r2;"), |_| 0);
    }
    for name in ["%current_graph_exec", "%pm0_64"] {
        first("", &format!("mov.u64 %rd4,{name}; st.global.u64 [%rd1],%rd4;"), |_| 0);
    }
}

#[test]
fn warps_of_before_volta_take_the_lanes_that_are_there() {
    let body = "\
mov.u32 %r5,0; setp.lt.u32 %p1,%r1,20; @!%p1 bra OVER;
shfl.idx.b32 %r2|%p2,%r1,3,0x1f; setp.gt.u32 %p3,%r1,9; vote.ballot.b32 %r3,%p3; vote.all.pred %p4,%p1; vote.any.pred %p5,%p3;
selp.u32 %r4,1,0,%p4; selp.u32 %r6,2,0,%p5; add.u32 %r5,%r3,%r2; add.u32 %r5,%r5,%r4; add.u32 %r5,%r5,%r6;
OVER: st.global.u32 [%rd1],%r5;";
    first("", body, |l| if l < 20 { 0xffc00 + 6 } else { 0 });
}

/// A cluster of one CTA: its shared memory by way of the cluster, and stores that signal its mbarriers.
#[test]
fn a_cluster_is_one_cta() {
    let body = "\
mov.u32 %r2,s; add.u32 %r3,%r2,64; shl.b32 %r4,%r1,2; add.u32 %r5,%r2,256; add.u32 %r5,%r5,%r4;
setp.eq.u32 %p1,%r1,0;
@%p1 mbarrier.init.shared::cta.b64 [%r3],1;
fence.mbarrier_init.release.cluster;
barrier.cluster.arrive; barrier.cluster.wait;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],128;
bar.warp.sync -1;
mapa.shared::cluster.u32 %r6,%r5,%cluster_ctarank; mapa.shared::cluster.u32 %r7,%r3,0;
mul.lo.u32 %r8,%r1,3;
st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r6],%r8,[%r7];
W: mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],0;
@!%p2 bra W;
xor.b32 %r9,%r4,124; add.u32 %r9,%r9,%r2; ld.shared::cluster.u32 %r10,[%r9+256];
getctarank.shared::cluster.u32 %r11,%r6; add.u32 %r10,%r10,%r11;
mov.pred %p3,%is_explicit_cluster; selp.u32 %r12,1000,0,%p3; add.u32 %r10,%r10,%r12;
pmevent 1; pmevent.mask 3; discard.global.L2 [%rd2],128;
st.global.u32 [%rd1],%r10;";
    first("", body, |l| 3 * (31 - l));
    // All lanes add to one word, and to another mbarrier's bytes; then a copy within shared memory.
    let body = "\
mov.u32 %r2,s; add.u32 %r3,%r2,64; setp.eq.u32 %p1,%r1,0; add.u32 %r5,%r2,256;
@%p1 mbarrier.init.shared::cta.b64 [%r3],1; @%p1 st.shared.v4.u32 [%r5],{5,6,7,8};
fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;
bar.warp.sync -1;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],128;
bar.warp.sync -1;
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r5],%r1,[%r3];
W: mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],0;
@!%p2 bra W;
ld.shared.u32 %r6,[%r5];
fence.proxy.async.shared::cta;
bar.warp.sync -1;
@!%p1 bra WAIT;
mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],16;
cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5+64],[%r5],16,[%r3];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],1;
@!%p2 bra WAIT;
ld.shared.v4.u32 {%r7,%r8,%r9,%r10},[%r5+64];
st.global.v4.u32 [%rd1],{%r6,%r7,%r8,%r10};";
    for got in run("", body) {
        assert_eq!(got, [5 + 496, 5 + 496, 6, 8]);
    }
    let multicast = "\
mov.u32 %r2,s; add.u32 %r3,%r2,64; setp.eq.u32 %p1,%r1,0; add.u32 %r5,%r2,256; mov.b16 %h1,1;
@%p1 mbarrier.init.shared::cta.b64 [%r3],1;
fence.mbarrier_init.release.cluster; bar.warp.sync -1;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],128;
@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5],[%rd2],128,[%r3],%h1;
W: mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],0;
@!%p2 bra W;
add.u32 %r5,%r5,%r1; ld.shared.u8 %r6,[%r5]; st.global.u32 [%rd1],%r6;";
    first("", multicast, |l| l);
}
