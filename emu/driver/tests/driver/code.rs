//! Modules, libraries, the linker, and what of code is refused.

use crate::child::{Context, clean, download, free, get, ok, run_with, upload};
use crate::kernels::{Module, PTX, launch, load};
use crate::params;
use cudarc::driver::sys::{self as cu, CUresult};
use std::ffi::{CStr, CString};
use std::ptr::null_mut;

#[test]
fn modules_have_functions_and_variables() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let mut f = null_mut();
        let none = cu::cuModuleGetFunction(&mut f, module.0, c"nothing".as_ptr());
        assert_eq!(none, CUresult::CUDA_ERROR_NOT_FOUND);
        let count = get(|n| cu::cuModuleGetFunctionCount(n, module.0)) as usize;
        let mut all = vec![null_mut(); count];
        ok(cu::cuModuleEnumerateFunctions(all.as_mut_ptr(), count as u32, module.0));
        let names: Vec<_> = all.iter().map(|&f| CStr::from_ptr(get(|n| cu::cuFuncGetName(n, f)))).collect();
        assert!(names.contains(&c"add") && names.contains(&c"scaled"));
        assert_eq!(module.function("add"), module.function("add"));
        let (mut at, mut bytes) = (0, 0);
        ok(cu::cuModuleGetGlobal_v2(&mut at, &mut bytes, module.0, c"factor".as_ptr()));
        assert_eq!((bytes, download::<u32>(at, 1)), (4, vec![3]));
        ok(cu::cuMemcpyHtoD_v2(at, [5_u32].as_ptr().cast(), 4));
        let a = upload(&[7_u32]);
        ok(launch(module.function("scaled"), (1, 1), null_mut(), params![a]));
        assert_eq!(download::<u32>(a, 1), [35]);
        let missing = cu::cuModuleGetGlobal_v2(&mut at, &mut bytes, module.0, c"nothing".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        free(a);
    });
}

#[test]
fn libraries_are_modules_where_they_are_used() {
    clean("", || unsafe {
        let text = CString::new(PTX.replace("sm_80", "sm_90")).unwrap();
        ok(cu::cuInit(0));
        let library = get(|l| {
            cu::cuLibraryLoadData(l, text.as_ptr().cast(), null_mut(), null_mut(), 0, null_mut(), null_mut(), 0)
        });
        let kernel = get(|k| cu::cuLibraryGetKernel(k, library, c"scaled".as_ptr()));
        assert!(get(|n| cu::cuLibraryGetKernelCount(n, library)) > 3);
        assert_eq!(get(|l| cu::cuKernelGetLibrary(l, kernel)), library);
        for value in [4_u32, 5] {
            let _context = Context::new();
            let a = upload(&[value]);
            ok(launch(kernel.cast(), (1, 1), null_mut(), params![a]));
            let function = get(|f| cu::cuKernelGetFunction(f, kernel));
            ok(launch(function, (1, 1), null_mut(), params![a]));
            assert_eq!(download::<u32>(a, 1), [9 * value]);
            let (mut at, mut bytes) = (0, 0);
            ok(cu::cuLibraryGetGlobal(&mut at, &mut bytes, library, c"factor".as_ptr()));
            assert_eq!((bytes, download::<u32>(at, 1)), (4, vec![3]));
            let module = get(|m| cu::cuLibraryGetModule(m, library));
            assert_eq!(cu::cuModuleUnload(module), CUresult::CUDA_ERROR_NOT_PERMITTED);
            free(a);
        }
        ok(cu::cuLibraryUnload(library));
    });
}

#[test]
fn code_is_loaded_from_files() {
    clean("", || unsafe {
        let _context = Context::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.ptx");
        std::fs::write(&path, PTX.replace("sm_80", "sm_90")).unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let module = Module(get(|m| cu::cuModuleLoad(m, path.as_ptr())));
        module.function("add");
        let mut none = null_mut();
        let missing = cu::cuModuleLoad(&mut none, c"/no/such/file".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    });
}

#[test]
fn what_driver_or_card_do_not_know_is_refused_with_the_line() {
    clean("card=h100,driver=12040", || {
        let _context = Context::new();
        let k = ".address_size 64\n.visible .entry k() {\n ret;\n}\n";
        let (r, log, _) = load(&format!(".version 8.7\n.target sm_80\n{k}"));
        assert_eq!(r, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert!(log.contains("ptxas application ptx input, line 1; error   : Unsupported .version 8.7"), "{log}");
        let (r, log, _) = load(&format!(".version 8.4\n.target sm_120\n{k}"));
        assert_eq!(r, CUresult::CUDA_ERROR_INVALID_PTX);
        assert!(log.contains("line 2; error"), "{log}");
        let (r, log, _) = load(&format!(".version 8.4\n.target sm_80\n{k}\n.visible .entry l() {{\n frob;\n}}\n"));
        assert_eq!(r, CUresult::CUDA_ERROR_INVALID_PTX);
        assert!(log.contains("line 9; error"), "{log}");
        let (r, _, _) = load(&format!(".version 8.4\n.target sm_80a\n{k}"));
        assert_eq!(r, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let (r, _, _) = load("\x7fELF and so on");
        assert_eq!(r, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let (r, log, module) = load(&format!(".version 8.0\n.target sm_90a\n{k}"));
        assert!(r == CUresult::CUDA_SUCCESS && log.is_empty(), "{log}");
        unsafe { ok(cu::cuModuleUnload(module)) };
    });
}

/// What the linker makes of texts.
fn link(texts: &[&str]) -> Result<Vec<u8>, CUresult> {
    unsafe {
        let linker = get(|l| cu::cuLinkCreate_v2(0, null_mut(), null_mut(), l));
        let mut answer = Ok(Vec::new());
        for text in texts {
            let (data, bytes) = (text.as_ptr().cast_mut().cast(), text.len());
            let kind = cu::CUjitInputType::CU_JIT_INPUT_PTX;
            let r = cu::cuLinkAddData_v2(linker, kind, data, bytes, c"text".as_ptr(), 0, null_mut(), null_mut());
            if r != CUresult::CUDA_SUCCESS {
                answer = Err(r);
            }
        }
        let (mut at, mut size) = (null_mut(), 0);
        if answer.is_ok() {
            answer = match cu::cuLinkComplete(linker, &mut at, &mut size) {
                CUresult::CUDA_SUCCESS => Ok(std::slice::from_raw_parts(at.cast::<u8>(), size).to_vec()),
                r => Err(r),
            };
        }
        ok(cu::cuLinkDestroy(linker));
        answer
    }
}

const CALLER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n
.extern .func (.param .u32 r) seven();
.visible .entry k(.param .u64 p) { .reg .b32 %r; .reg .b64 %d; .param .u32 r;
  call.uni (r), seven; ld.param.u32 %r, [r]; ld.param.u64 %d, [p]; st.global.u32 [%d], %r; ret; }";
const CALLEE: &str = ".version 8.0\n.target sm_80\n.address_size 64\n
.visible .func (.param .u32 r) seven() { st.param.u32 [r], 7; ret; }";

#[test]
fn texts_are_linked_to_machine_code() {
    clean("", || unsafe {
        let _context = Context::new();
        let code = link(&[CALLER, CALLEE]).unwrap();
        let module = Module(get(|m| cu::cuModuleLoadData(m, code.as_ptr().cast())));
        let a = upload(&[0_u32]);
        ok(launch(module.function("k"), (1, 1), null_mut(), params![a]));
        assert_eq!(download::<u32>(a, 1), [7]);
        free(a);
        assert_eq!(link(&[CALLER]), Err(CUresult::CUDA_ERROR_INVALID_PTX));
        assert_eq!(link(&["frob"]), Err(CUresult::CUDA_ERROR_INVALID_PTX));
        // Machine code is linked again.
        let linker = get(|l| cu::cuLinkCreate_v2(0, null_mut(), null_mut(), l));
        let (data, kind) = (code.as_ptr().cast_mut().cast(), cu::CUjitInputType::CU_JIT_INPUT_CUBIN);
        ok(cu::cuLinkAddData_v2(linker, kind, data, code.len(), c"code".as_ptr(), 0, null_mut(), null_mut()));
        ok(cu::cuLinkDestroy(linker));
        let mut damaged = code.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let mut none = null_mut();
        let r = cu::cuModuleLoadData(&mut none, damaged.as_ptr().cast());
        assert_eq!(r, CUresult::CUDA_ERROR_INVALID_IMAGE);
    });
}

#[test]
fn machine_code_of_another_card_or_driver_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("code");
    for (settings, expected) in [
        ("card=h100", "none"),
        ("card=h100", "CUDA_SUCCESS"),
        ("card=h200", "CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ("card=h100,driver=12080", "CUDA_ERROR_INVALID_IMAGE"),
    ] {
        let arguments = [("STANDIN_FILE", file.to_str().unwrap()), ("STANDIN_EXPECTED", expected)];
        let ended = run_with(Some(settings), &arguments, || unsafe {
            let _context = Context::new();
            let [file, expected] = ["STANDIN_FILE", "STANDIN_EXPECTED"].map(|name| std::env::var(name).unwrap());
            if expected == "none" {
                std::fs::write(file, link(&[CALLER, CALLEE]).unwrap()).unwrap();
                return;
            }
            let (code, mut module) = (std::fs::read(file).unwrap(), null_mut());
            let r = cu::cuModuleLoadData(&mut module, code.as_ptr().cast());
            assert_eq!(format!("{r:?}"), expected);
        });
        let Some(ended) = ended else { return };
        ended.clean();
    }
}
