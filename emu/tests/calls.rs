//! Calls by address, functions that the module declares only, and assertions.

use emu::{Error, Launch, Memory, Module, Options, Schedule};

/// Runs a kernel body in a warp (`%r0` is the lane, `%rd0` the address of its word of output): the words, or the fault.
fn run(top: &str, body: &str) -> Result<Vec<u32>, String> {
    let text = format!(
        "\
.version 8.6
.target sm_90
.address_size 64
{top}
.visible .entry k(.param .u64 out)
{{
.reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>;
ld.param.u64 %rd0,[out]; mov.u32 %r0,%tid.x; mad.wide.u32 %rd0,%r0,4,%rd0;
{body}
ret;
}}
"
    );
    let module = Module::parse(&text).map_err(|e| e.to_string())?;
    let mut results = Vec::new();
    for seed in 0..3 {
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let out = memory.alloc_with(vec![0; 128], 256).unwrap();
        let params = out.to_le_bytes().to_vec();
        let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
        let options = Options { schedule: Schedule { seed }, max_steps: 1 << 20, ..Options::default() };
        match loaded.run(&mut memory, &launch, &options) {
            Ok(_) => {}
            Err(Error::Fault(f)) => return Err(format!("{}: {}", f.kind.name(), f.detail)),
            Err(e) => return Err(e.to_string()),
        }
        let words = memory.read(out, 128).unwrap();
        results.push(words.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>());
    }
    assert!(results.windows(2).all(|w| w[0] == w[1]), "schedules differ\n{body}");
    Ok(results.remove(0))
}

const FUNCTIONS: &str = "\
.func (.param .b32 r) double(.param .b32 x);
.func (.param .b32 r) square(.param .b32 x);
.func (.param .b32 r) negate(.param .b32 x);
.global .align 8 .u64 table[4] = {double, square, negate, 0};
.const .align 8 .u64 second = square;
.global .align 1 .b8 bytes[8] = {0xff(square), 0xff00(square), 0xff0000(square), 0xff000000(square), 0xff00000000(square), 0xff0000000000(square), 0xff000000000000(square), 0xff00000000000000(square)};
.func (.param .b32 r) double(.param .b32 x) { .reg .b32 %a; ld.param.b32 %a,[x]; add.u32 %a,%a,%a; st.param.b32 [r],%a; }
.func (.param .b32 r) square(.param .b32 x) { .reg .b32 %a; ld.param.b32 %a,[x]; mul.lo.u32 %a,%a,%a; st.param.b32 [r],%a; }
.func (.param .b32 r) negate(.param .b32 x) { .reg .b32 %a; ld.param.b32 %a,[x]; neg.s32 %a,%a; st.param.b32 [r],%a; }
.func (.reg .b32 r) by_register(.reg .b32 x, .reg .b32 y) { sub.u32 r,x,y; }
.func nothing() { ret; }";

/// Calls what `%rd1` points to, with the lane, and stores what it returns.
const CALL: &str = "\
{ .param .b32 x; .param .b32 r; st.param.b32 [x],%r0;
proto: .callprototype (.param .b32 _) _ (.param .b32 _);
call (r), %rd1, (x), proto;
ld.param.b32 %r1,[r]; }
st.global.u32 [%rd0],%r1;";

#[test]
fn functions_are_called_by_their_addresses() {
    let from = |address: &str| run(FUNCTIONS, &format!("{address}\n{CALL}")).unwrap();
    let each = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<_>>();
    assert_eq!(from("mov.u64 %rd1,double;"), each(|l| 2 * l));
    assert_eq!(from("ld.const.u64 %rd1,[second];"), each(|l| l * l));
    // Addresses of a table, byte by byte, and of a table in a function's scope.
    let by_bytes = "mov.u64 %rd1,0; mov.u32 %r2,7;
B: cvt.u64.u32 %rd2,%r2; mov.u64 %rd3,bytes; add.s64 %rd3,%rd3,%rd2; ld.global.u8 %rd2,[%rd3]; shl.b64 %rd1,%rd1,8; or.b64 %rd1,%rd1,%rd2;
sub.u32 %r2,%r2,1; setp.ge.s32 %p1,%r2,0; @%p1 bra B;";
    assert_eq!(from(by_bytes), each(|l| l * l));
    assert_eq!(
        from(".global .align 8 .u64 own[2] = {0, negate}; ld.global.u64 %rd1,[own+8];"),
        each(|l| l.wrapping_neg())
    );
    // Lanes of a warp call different functions, and meet again.
    let mixed = "rem.u32 %r2,%r0,3; mul.wide.u32 %rd2,%r2,8; mov.u64 %rd3,table; add.s64 %rd2,%rd2,%rd3; ld.global.u64 %rd1,[%rd2];";
    let meet = format!(
        "{mixed}\n{CALL}\nactivemask.b32 %r3; bar.warp.sync -1; activemask.b32 %r3; add.u32 %r1,%r1,%r3; st.global.u32 [%rd0],%r1;"
    );
    let want = each(|l| [2 * l, l * l, l.wrapping_neg()][l as usize % 3].wrapping_sub(1));
    assert_eq!(run(FUNCTIONS, &meet).unwrap(), want);
    let alias = format!("{FUNCTIONS}\n.func (.param .b32 r) other(.param .b32 x);\n.alias other, square;");
    assert_eq!(run(&alias, &format!("mov.u64 %rd1,other;\n{CALL}")).unwrap(), each(|l| l * l));
    assert!(run(&format!("{FUNCTIONS}\n.alias other, square;"), "").unwrap_err().contains("other"));
    // Only some lanes call, with registers as parameters, and a list of targets in place of a prototype.
    let registers = "\
mov.u64 %rd1,by_register; mov.u32 %r1,99; setp.lt.u32 %p1,%r0,5;
targets: .calltargets by_register;
@%p1 call (%r1), %rd1, (%r0, 3), targets;
mov.u64 %rd2,nothing;
none: .callprototype _;
call %rd2, none;
st.global.u32 [%rd0],%r1;";
    assert_eq!(run(FUNCTIONS, registers).unwrap(), each(|l| if l < 5 { l.wrapping_sub(3) } else { 99 }));
}

#[test]
fn calls_of_what_is_no_such_function_are_faults() {
    for (address, what) in [
        ("mov.u64 %rd1,0;", "bad_operand: calls what is no function"),
        ("mov.u64 %rd1,double; add.s64 %rd1,%rd1,4;", "bad_operand: calls what is no function"),
        ("mov.u64 %rd1,double; add.s64 %rd1,%rd1,0x10000;", "bad_operand: calls what is no function"),
        ("mov.u64 %rd1,by_register;", "bad_operand: calls a function that has other parameters"),
        ("mov.u64 %rd1,k;", "bad_operand: calls a function that has other parameters"),
    ] {
        assert_eq!(run(FUNCTIONS, &format!("{address}\n{CALL}")).unwrap_err(), what, "{address}");
    }
    let data = run(FUNCTIONS, "mov.u64 %rd1,double; ld.global.u32 %r1,[%rd1];").unwrap_err();
    assert!(data.starts_with("oob_global"), "{data}");
}

const EXTERNS: &str = "\
.extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.extern .func (.param .b64 r) malloc(.param .b64 a);
.global .align 1 .b8 condition[6] = {120, 32, 60, 32, 51, 0};
.global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};
.global .align 1 .b8 function[3] = {102, 10, 0};";

/// A cluster has one CTA; another one is no silent alias of it.
#[test]
fn another_cta_of_the_cluster_is_a_fault() {
    let copy = "\
.shared .align 16 .b8 s[64]; setp.eq.u32 %p1,%r0,0; @%p1 mbarrier.init.shared::cta.b64 [s],1; fence.mbarrier_init.release.cluster;
cvta.to.global.u64 %rd1,%rd0; mov.b16 %h0,MASK;
@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [s+16],[%rd1],16,[s],%h0;";
    for (body, names) in [
        (".reg .b32 %m; mapa.shared::cluster.u32 %m,0,1;".to_owned(), 1),
        (".reg .b64 %m; mapa.u64 %m,%rd0,%r0;".to_owned(), 1),
        (format!(".reg .b16 %h<2>; {}", copy.replace("MASK", "3")), 3),
    ] {
        let want = format!("bad_operand: {names} names another CTA than the only one of the cluster");
        assert_eq!(run("", &body).unwrap_err(), want, "{body}");
    }
}

#[test]
fn variables_of_other_modules_matter_when_they_are_used() {
    let top = ".extern .global .align 4 .u32 theirs; .extern .const .align 4 .b8 table[];";
    assert_eq!(run(top, "st.global.u32 [%rd0],1;").unwrap(), [1; 32]);
    for body in ["ld.global.u32 %r1,[theirs];", "mov.u64 %rd1,table;"] {
        let e = run(top, body).unwrap_err();
        assert!(e.contains("is defined in another module"), "{body}: {e}");
    }
    let e = run(&format!("{top} .global .u64 pointer = theirs;"), "").unwrap_err();
    assert!(e.contains("theirs has no fixed address"), "{e}");
}

#[test]
fn functions_without_a_body_matter_when_they_are_called() {
    let guarded = |condition: &str, call: &str| {
        run(
            EXTERNS,
            &format!(
                "mov.u32 %r1,7; setp.{condition}.u32 %p1,%r0,40; @!%p1 bra OVER;\n{call}\nOVER: st.global.u32 [%rd0],%r1;"
            ),
        )
    };
    let assertion = "\
{ .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
mov.u64 %rd1,condition; cvta.global.u64 %rd1,%rd1; st.param.b64 [a],%rd1; mov.u64 %rd1,file; st.param.b64 [b],%rd1;
st.param.b32 [c],12; mov.u64 %rd1,function; st.param.b64 [d],%rd1; st.param.b64 [e],1;
call.uni __assertfail, (a, b, c, d, e); }";
    let print = "\
{ .param .b64 a; .param .b64 b; .param .b32 r; st.param.b64 [a],0; st.param.b64 [b],0;
call.uni (r), vprintf, (a, b); ld.param.b32 %r1,[r]; }";
    let allocate = "{ .param .b64 a; .param .b64 r; st.param.b64 [a],8; call.uni (r), malloc, (a); }";
    for call in [assertion, print, allocate] {
        assert_eq!(guarded("gt", call).unwrap(), [7; 32]);
    }
    assert_eq!(guarded("lt", print).unwrap(), [0; 32]);
    assert_eq!(guarded("lt", assertion).unwrap_err(), "assert: `x < 3` does not hold, a.cu line 12, in `f\\n`");
    assert_eq!(guarded("lt", allocate).unwrap_err(), "undefined: the function malloc has no body in this module");
    // By its address too.
    let pointer = "\
{ .param .b64 a; .param .b64 r; st.param.b64 [a],8; mov.u64 %rd1,malloc;
p: .callprototype (.param .b64 _) _ (.param .b64 _);
call (r), %rd1, (a), p; }";
    assert_eq!(guarded("lt", pointer).unwrap_err(), "undefined: the function malloc has no body in this module");
}
