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
        ("wgmma.fence.sync.aligned;", "wgmma"),
        ("tcgen05.alloc.cta_group::1.sync.aligned.b32 [%rd1],32;", "tcgen05"),
        ("cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes [%r1],[%rd1],[%r2];", "tensor"),
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
        assert!(what.contains(name) || what.contains("operation"), "{body}: {what}");
    }
    assert_eq!(Module::parse(".version 8.6\n.address_size 64").unwrap_err().line, 2);
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
                            _ => damaged.insert(at, b"{}[]().,;:@!%|+-0fx\n"[random() % 20]),
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
