//! The model architectures, one file each. To add one: a file here and its name in the list below.

use super::Architecture;

macro_rules! architectures {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every architecture, in the order of the list.
        pub(super) static ALL: &[&Architecture] = &[$(&$file::ARCHITECTURE),*];
    };
}

architectures! { llama, qwen2, qwen3 }
