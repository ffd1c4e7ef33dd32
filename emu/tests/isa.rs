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

/// A fragment element: which register and bits of which lane, as the ISA draws it, from the other side.
#[test]
fn matrices_move_and_multiply() {
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

/// Multiplies matrices of made-up numbers, whose fragments are put together here from their definition.
fn mma(form: &str, k: usize, bits: usize, decode: fn(u32) -> f64, encode: fn(usize, usize) -> u32) {
    let per = 32 / bits;
    let a = |row: usize, col: usize| encode(row * 3 + 1, col);
    let b = |row: usize, col: usize| encode(row + 5, col * 7);
    let c = |row: usize, col: usize| (row as i32 * 8 + col as i32 - 60) as f64;
    let integer = bits == 8;
    let half = form.contains("f16.f16.f16.f16");
    // Tables of the fragments, in global memory: a (4 words a lane at most), b (2), c (4).
    let mut words = vec![0u32; 32 * 10];
    let (a_regs, b_regs) = (16 * k / 32 / per, 8 * k / 32 / per);
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for i in 0..a_regs * per {
            // The ISA: row is group for even registers and group + 8 for odd ones; columns jump after two registers.
            let (reg, e) = (i / per, i % per);
            let (row, col) = (group + 8 * (reg % 2), member * per + e + 4 * per * (reg / 2));
            words[lane * 10 + reg] |= a(row, col) << (bits * e);
        }
        for i in 0..b_regs * per {
            let (reg, e) = (i / per, i % per);
            words[lane * 10 + 4 + reg] |= b(member * per + e + 4 * per * reg, group) << (bits * e);
        }
        for i in 0..4 {
            let value = c(group + 8 * (i / 2), 2 * member + i % 2);
            if half {
                words[lane * 10 + 6 + i / 2] |= u32::from(half::f16::from_f64(value).to_bits()) << (16 * (i % 2));
            } else {
                words[lane * 10 + 6 + i] = if integer { value as i32 as u32 } else { (value as f32).to_bits() };
            }
        }
    }
    let list: Vec<String> = words.iter().map(u32::to_string).collect();
    let top = format!(".global .align 16 .u32 t[320] = {{{}}};", list.join(","));
    let regs = |from: usize, n: usize| (from..from + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(",");
    let n = if half { 2 } else { 4 };
    let loads: String = (0..10).map(|i| format!("ld.global.u32 %r{},[%rd4+{}];\n", 10 + i, 4 * i)).collect();
    let (c_name, d_name, extra) = if half || integer {
        (regs(16, n), regs(30, n), String::new())
    } else {
        let moves: String = (0..4).map(|i| format!("mov.b32 %f{i},%r{};\n", 16 + i)).collect();
        ("%f0,%f1,%f2,%f3".to_owned(), "%f4,%f5,%f6,%f7".to_owned(), moves)
    };
    let results: String = (0..n)
        .map(|i| match half || integer {
            true => format!("st.global.u32 [%rd1+{}],%r{};\n", 4 * i, 30 + i),
            false => format!("st.global.f32 [%rd1+{}],%f{};\n", 4 * i, 4 + i),
        })
        .collect();
    let body = format!(
        "mov.u64 %rd4,t; mul.wide.u32 %rd5,%r1,40; add.s64 %rd4,%rd4,%rd5;\n{loads}{extra}mma.sync.aligned.{form} {{{d_name}}},{{{}}},{{{}}},{{{c_name}}};\n{results}",
        regs(10, a_regs),
        regs(14, b_regs)
    );
    for (lane, got) in run(&top, &body).iter().enumerate() {
        for i in 0..4 {
            let (row, col) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let want = c(row, col) + (0..k).map(|j| decode(a(row, j)) * decode(b(j, col))).sum::<f64>();
            let value = if half {
                half::f16::from_bits((got[i / 2] >> (16 * (i % 2))) as u16).to_f64()
            } else if integer {
                f64::from(got[i] as i32)
            } else {
                f64::from(f32::from_bits(got[i]))
            };
            assert_eq!(value, want, "{form} lane {lane} element {i}");
        }
    }
}

#[test]
fn matrix_products_of_every_shape() {
    fn small(row: usize, col: usize) -> f64 {
        ((row * 5 + col * 3) % 9) as f64 / 4.0 - 1.0
    }
    let half = |row, col| u32::from(half::f16::from_f64(small(row, col)).to_bits());
    let brain = |row, col| u32::from(half::bf16::from_f64(small(row, col)).to_bits());
    let from_half = |v| half::f16::from_bits(v as u16).to_f64();
    let from_brain = |v| half::bf16::from_bits(v as u16).to_f64();
    mma("m16n8k16.row.col.f32.f16.f16.f32", 16, 16, from_half, half);
    mma("m16n8k8.row.col.f32.f16.f16.f32", 8, 16, from_half, half);
    mma("m16n8k16.row.col.f16.f16.f16.f16", 16, 16, from_half, half);
    mma("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, from_brain, brain);
    mma("m16n8k8.row.col.f32.bf16.bf16.f32", 8, 16, from_brain, brain);
    let byte = |row: usize, col: usize| ((row * 37 + col * 101) % 256) as u32;
    mma("m16n8k32.row.col.s32.s8.s8.s32", 32, 8, |v| f64::from(v as u8 as i8), byte);
    mma("m16n8k32.row.col.satfinite.s32.u8.u8.s32", 32, 8, |v| f64::from(v as u8), byte);
    mma("m16n8k16.row.col.s32.s8.s8.s32", 16, 8, |v| f64::from(v as u8 as i8), byte);
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
