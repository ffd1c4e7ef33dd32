//! The model architectures, one file each. To add one: a file here and its name in the list below.

use super::Architecture;

macro_rules! architectures {
    ($($file:ident $($name:literal)+),* $(,)?) => {
        $(mod $file;)*
        /// Every architecture, in the order of the list.
        pub(super) static ALL: &[Architecture] = &[$($(Architecture { name: $name, build: $file::build }),+),*];
    };
}

// File, and the names that `general.architecture` has for it.
architectures! {
    llama "llama",
    qwen2 "qwen2",
    qwen3 "qwen3",
    qwen3moe "qwen3moe",
    gpt_oss "gpt-oss",
    glm4moe "glm4moe",
    gemma3 "gemma3",
    gemma2 "gemma2",
    mistral3 "mistral3",
    phi3 "phi3",
    olmo2 "olmo2",
    granite "granite",
    exaone4 "exaone4",
    smollm3 "smollm3",
    seed_oss "seed_oss",
    glm4 "glm4",
    command_r "command-r",
    cohere2 "cohere2",
    starcoder2 "starcoder2",
    gemma4 "gemma4",
    qwen35 "qwen35",
    qwen35moe "qwen35moe",
    qwen3next "qwen3next",
    deepseek2 "deepseek2",
}
