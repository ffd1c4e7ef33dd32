//! A kernel around a body.

/// A kernel: parameters `p` (256 u32, written), `q` (256 u32, nobody wrote), `c` (read-only), shared memory `s` of 1 KiB.
pub fn text(body: &str) -> String {
    format!(
        "\
.version 8.6
.target sm_90
.address_size 64
.global .align 4 .u32 flag;
.func leaf(.param .b32 a)
{{
ret;
}}
.visible .entry k(.param .u64 p, .param .u64 q, .param .u64 c)
{{
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;
.shared .align 16 .b8 s[1024]; .shared .align 8 .b8 m[16]; .local .align 8 .b8 l[16];
ld.param.u64 %rd1,[p]; ld.param.u64 %rd2,[q]; ld.param.u64 %rd3,[c];
mov.u32 %r1,%tid.x; mov.u32 %r2,s; mov.u32 %r3,m; mov.u32 %r4,%ctaid.x;
shl.b32 %r5,%r1,2; add.u32 %r6,%r2,%r5; cvt.u64.u32 %rd4,%r5; add.s64 %rd5,%rd1,%rd4; add.s64 %rd6,%rd2,%rd4;
and.b32 %r7,%r1,31; shr.u32 %r8,%r1,5; setp.eq.u32 %p1,%r1,0;
{body}
ret;
}}
"
    )
}
