//! Values that depend on memory nobody wrote.

mod planted;

use emu::{Error, FaultKind, Launch, Memory, Module, Options};
use planted::*;

#[test]
fn memory_that_nobody_wrote() {
    let loads = [
        ("ld.global.u32 %r9,[%rd6];", FaultKind::UninitGlobal),
        ("ld.shared.u32 %r9,[%r6];", FaultKind::UninitShared),
        ("ld.local.u32 %r9,[l+8];", FaultKind::UninitLocal),
        ("ld.global.v2.u32 {%r9,%r10},[%rd2];", FaultKind::UninitGlobal),
        ("mov.u32 %r9,%r6; ld.shared.u32 %r9,[%r9];", FaultKind::UninitShared),
        ("cvta.shared.u64 %rd7,s; ld.u16 %r9,[%rd7];", FaultKind::UninitShared),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9},[%r2];", FaultKind::UninitShared),
        ("st.local.u32 [l],%r1; st.local.u8 [l+5],%h1; ld.local.u32 %r9,[l+4];", FaultKind::UninitLocal),
    ];
    // What acts on the value, and what comes to the same.
    let uses = [
        "setp.eq.u32 %p2,%r9,7;\n@%p2 bra E; //!\nE:",
        "setp.lt.s32 %p2,%r9,%r1;\n@%p2 st.shared.u32 [%r6],%r1; //!",
        "and.b32 %r9,%r9,252; add.u32 %r9,%r9,%r2;\nst.shared.u32 [%r9],1; //!",
        "and.b32 %r9,%r9,252; add.u32 %r9,%r9,%r2;\nld.shared.u32 %r10,[%r9]; //!",
        "red.global.add.u32 [%rd1],%r9; //!",
        "shfl.sync.bfly.b32 %r10,%r9,1,31,0xffffffff; mad.lo.u32 %r10,%r10,5,%r1; setp.gt.u32 %p2,%r10,9;\n@%p2 bra E; //!\nE:",
        "cvt.rn.f32.u32 %f1,%r9; lg2.approx.f32 %f1,%f1; setp.gt.f32 %p2,%f1,0f3F800000;\n@%p2 bra E; //!\nE:",
        "st.global.u32 [%rd5],%r9;\nld.global.u32 %r10,[%rd5]; setp.eq.u32 %p2,%r10,0;\n@%p2 bra E; //!\nE:",
        "@%p1 bar.sync 1,32;\nbar.sync %r9; //!",
        "cvt.u64.u32 %rd7,%r9; .param .b32 x;\nproto: .callprototype _ (.param .b32 _);\ncall %rd7,(x),proto; //!",
        "mov.b32 %f1,%r9;\nwmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%r2],{%f1,%f1,%f1,%f1,%f1,%f1,%f1,%f1}; //!",
    ];
    // What does not depend on it.
    let others = [
        "",
        "and.b32 %r9,%r9,0; add.u32 %r9,%r9,%r2;\nst.shared.u32 [%r9+512],0;",
        "selp.u32 %r9,%r9,0,%p1; @%p1 mov.u32 %r9,1; setp.eq.u32 %p2,%r9,7;\n@%p2 bra E;\nE:",
        "setp.eq.and.u32 %p2,%r9,7,!%p1; @%p1 bra E;\nmov.u32 %r9,1;\nE:",
        "shfl.sync.idx.b32 %r10,%r9,0,31,0xffffffff; mov.u32 %r10,3; setp.eq.u32 %p2,%r10,7;\n@%p2 bra E;\nE:",
        "st.shared.u32 [%r6+512],%r9;\nst.shared.u32 [%r6+512],%r1;\nld.shared.u32 %r9,[%r6+512]; setp.eq.u32 %p2,%r9,7;\n@%p2 bra E;\nE:",
        "st.global.u32 [%rd5],%r9;",
    ];
    for (load, kind) in loads {
        for user in uses.iter().filter(|u| !u.starts_with("@%p1 bar")) {
            fault(&format!("{load}\n{user}"), 1, kind);
        }
        for other in others {
            clean(&format!("{load}\n{other}"), 1);
        }
    }
    // Of a word that is written in part, the part that is not.
    let parts = "st.shared.u16 [%r6],%h1; st.shared.u8 [%r6+2],%h1; ld.shared.u32 %r9,[%r6]; and.b32 %r9,%r9,MASK; setp.eq.u32 %p2,%r9,0;\n@%p2 bra E; //!\nE:";
    clean(&parts.replace("MASK", "0xffffff").replace(" //!", ""), 1);
    fault(&parts.replace("MASK", "0x1000000"), 1, FaultKind::UninitShared);
    // Calls and returns pass it on.
    let called = text("ld.shared.u32 %r9,[%r2]; call (%r9), same, (%r9); setp.eq.u32 %p2,%r9,0;\n@%p2 bra E;\nE:")
        .replace(".func leaf", ".func (.reg .b32 o) same(.reg .b32 i)\n{\nmov.u32 o,i;\nret;\n}\n.func leaf");
    let Err(Error::Fault(f)) = run(&called, 1, 0) else { panic!("{called}") };
    assert!(f.kind == FaultKind::UninitShared && f.detail.contains("the branch depends on what line"), "{f}");
    // Copies and atomic operations act at once.
    fault("@%p1 cp.async.ca.shared.global [%r2],[%rd2],4; //!", 1, FaultKind::UninitGlobal);
    fault("red.shared.add.u32 [%r2],1; //!", 1, FaultKind::UninitShared);
}

/// A warp with undefined values does what acts on memory once.
#[test]
fn instructions_that_act_are_executed_once() {
    clean(
        "ld.shared.u32 %r9,[%r6+512]; @%p1 st.shared.u32 [%r2],7; @%p1 mbarrier.init.shared.b64 [%r3],1;
        bar.sync 0; @!%p1 bra E;
        mbarrier.arrive.expect_tx.shared.b64 _,[%r3],4;
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r2],5,[%r3];
        W: mbarrier.try_wait.parity.shared.b64 %p2,[%r3],0; @!%p2 bra W;
        ld.shared.u32 %r10,[%r2]; setp.ne.u32 %p3,%r10,12; @%p3 trap;
        E:",
        1,
    );
}

#[test]
fn what_is_stored_of_undefined_values_stays_unwritten() {
    let module =
        Module::parse(&text("ld.shared.u32 %r9,[%r2]; add.u32 %r9,%r9,1;\nst.global.v2.u32 [%rd1],{%r9,7};")).unwrap();
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let p = memory.alloc_with(vec![0; 1024], 256).unwrap();
    let params = [p, p, p].iter().flat_map(|a| a.to_le_bytes()).collect();
    let launch = Launch { entry: "k".into(), grid: [1; 3], block: [1, 1, 1], dynamic_shared: 0, params };
    loaded.run(&mut memory, &launch, &Options::default()).unwrap();
    assert_eq!(memory.read(p + 4, 4), Ok(&[7, 0, 0, 0][..]));
    assert_eq!(memory.undefined(p + 4, 1020), None);
    assert!(memory.read(p, 4).is_err());
    let f = memory.undefined(p, 1024).unwrap();
    assert_eq!((f.kind, f.address), (FaultKind::UninitShared, Some(p)));
}
