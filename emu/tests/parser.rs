//! What the parser refuses, by name and line; and that damaged text never makes the emulator panic.

mod common;

use common::shared_dir;
use emu::case::{Case, find};
use emu::{Module, Options};

fn refusal(body: &str) -> (u32, String) {
    let text = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<4>;\n{body}\n}}\n"
    );
    let e = Module::parse(&text).expect_err(body);
    (e.line, e.what)
}

#[test]
fn what_is_unknown_is_refused_by_name_and_line() {
    for (body, name) in [
        ("frobnicate.u32 %r1,%r2;", "frobnicate"),
        ("add.frob.u32 %r1,%r2,%r3;", ".frob"),
        ("add.u33 %r1,%r2,%r3;", "add.u33"),
        (".frob 3;", ".frob"),
        ("ld.global.frob.u32 %r1,[%rd1];", ".frob"),
        ("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%r1},{%r1},{%r1},{%r1};", "m16n8k64"),
        ("mma.sync.aligned.m16n8k16.row.col.s32.s4.s4.s32 {%r1},{%r1},{%r1},{%r1};", "no such form"),
        ("wmma.load.a.sync.aligned.row.m16n16k8.f16 {%r1},[%rd1];", "m16n16k8"),
        ("call (%r1), %rd1, (%r2), NONE;", "NONE"),
        ("call (%r1), %rd1, (%r2);", "prototype"),
        ("mov.u32 %r1,1/0;", "zero"),
        ("mov.u32 %r1,%tid.q;", "expected"),
        ("mov.u32 %r1,%envreg32;", "%envreg32"),
        ("vadd2.s32.s32.s32 %r1,%r2.h42,%r3,%r1;", "part"),
        ("vadd.s32.s32.s32 %r1.h0,%r2,%r3;", "operands"),
        ("st.async.shared::cluster.b32 [%r1],%r2,[%r3];", "st.async"),
        ("add.u32 %r1,%r2;", "operands"),
        ("add.u32 %r1,%r2,%r9;", "%r9"),
        ("add.u32 %rd1,%r2,%r3;", "%rd1"),
        ("mov.u32 %r1,%frob;", "%frob"),
        ("bra NOWHERE;", "NOWHERE"),
        ("setp.lo.s32 %p1,%r1,%r2;", "setp.lo.s32"),
        ("and.u32 %r1,%r2,%r3;", "and.u32"),
        ("atom.global.mul.u32 %r1,[%rd1],%r2;", ".mul"),
        ("call frob;", "frob"),
        (".reg .b32 %r<4>;", "%r"),
        ("add.f32 %r1,%r2,1;", "1"),
    ] {
        let (line, what) = refusal(body);
        assert_eq!(line, 7, "{body}: {what}");
        assert!(!what.contains('\n'), "{body}: {what}");
        assert!(what.contains(name) || what.contains("operation"), "{body}: {what}");
    }
    assert_eq!(Module::parse(".version 8.6\n.address_size 64").unwrap_err().line, 2);
}

/// Instructions that are known and not executed are named, with what they are about, whatever their operands look like.
#[test]
fn what_is_not_executed_is_named() {
    for (body, about) in [
        ("tex.1d.v4.f32.s32 {%r1,%r2,%r3,%r0},[%rd1,{%r1}];", "textures"),
        ("tld4.r.2d.v4.f32.f32 {%r1,%r2,%r3,%r0},[%rd1,{%r1,%r2}];", "textures"),
        ("txq.width.b32 %r1,[%rd1];", "textures"),
        ("suld.b.1d.b32.trap %r1,[%rd1,{%r1}];", "surfaces"),
        ("sust.b.2d.b32.clamp [%rd1,{%r1,%r2}],%r1;", "surfaces"),
        ("sured.b.add.1d.u32.trap [%rd1,{%r1}],%r1;", "surfaces"),
        ("wgmma.fence.sync.aligned;", "products of warp groups"),
        ("tcgen05.alloc.cta_group::1.sync.aligned.b32 [%rd1],32;", "tensor memory"),
        ("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r1],%rd1;", "tensor maps"),
        (
            "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes [%r1],[%rd1,{%r1,%r2}],[%r2];",
            "tensor maps",
        ),
        ("cp.async.bulk.prefetch.tensor.2d.L2.global [%rd1,{%r1,%r2}];", "tensor maps"),
        ("cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.bulk_group [%rd1,{%r1}],[%r0];", "tensor maps"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd1],[%r0],%r2;", "bulk copies that reduce"),
        (
            "mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r0},{%r1},{%r2},{%r3},%r1,0x0;",
            "sparse products",
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0 {%r0},{%r1},{%r2},{%r3},%r1,{0,0},%r2,{0,0};",
            "block-scaled products",
        ),
        ("alloca.u64 %rd1,%rd2,16;", "allocation on the stack"),
        ("stacksave.u64 %rd1;", "allocation on the stack"),
        ("multimem.red.global.add.u32 [%rd1],%r1;", "memory of several devices"),
        (
            "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r0],[%r1];",
            "clusters of several CTAs",
        ),
        ("cvt.rs.f16x2.f32 %r1,%r2,%r3,%r1;", "stochastic rounding"),
    ] {
        let (line, what) = refusal(body);
        let name = body.split(' ').next().unwrap();
        assert_eq!(
            (line, what),
            (7, format!("{name}: the emulator does not execute {about}").replace(";:", ":")),
            "{body}"
        );
    }
    let clusters =
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k()\n.reqnctapercluster 2, 1, 1\n{ ret; }\n";
    let e = Module::parse(clusters).unwrap_err();
    assert_eq!(
        (e.line, e.what.as_str()),
        (6, ".reqnctapercluster: the emulator does not execute clusters of several CTAs")
    );
}

#[test]
fn damaged_text_is_refused_or_runs_and_never_panics() {
    let Some(dir) = shared_dir("ptx-vectors") else { return };
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let (mut refused, mut taken) = (0, 0);
    for folder in find(&dir).unwrap() {
        let case = Case::read(&folder).unwrap();
        for ptx in case.ptx.values() {
            let text = ptx.as_bytes();
            for round in 0..60 {
                let mut damaged = text.to_vec();
                if round % 3 == 0 {
                    damaged.truncate(random() % text.len());
                }
                for _ in 0..1 + random() % 4 {
                    if let Some(at) = random().checked_rem(damaged.len()) {
                        match random() % 3 {
                            0 => damaged[at] = random() as u8,
                            1 => drop(damaged.remove(at)),
                            _ => damaged.insert(at, b"{}[]().,;:@!%|+-~?<0fx\n"[random() % 23]),
                        }
                    }
                }
                let damaged = String::from_utf8_lossy(&damaged);
                match Module::parse(&damaged) {
                    // What still parses runs, rightly or wrongly.
                    Ok(_) => {
                        taken += 1;
                        case.run(&damaged, &Options { max_steps: 5000, ..Options::default() });
                    }
                    Err(e) => {
                        assert!(!e.what.is_empty() && e.line > 0);
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > taken, "{refused} refused, {taken} taken");
}
