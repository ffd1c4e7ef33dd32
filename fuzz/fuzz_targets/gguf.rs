//! The header of a model file, up to a plan of its kernels.
#![no_main]

use codegen::passes::{self, PassContext};
use codegen::{KernelTable, lower};
use ir::front::{self, EntryShape, Tensors};
use ir::{Error, gguf, quant, target};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Tensor data behind the input: headers are what is fuzzed, and their tensors have to lie in the file.
const DATA: usize = 64 << 10;

/// Reads the header and takes the model as far as it goes.
fn build(file: &[u8]) -> ir::Result<()> {
    let header = gguf::parse(file)?;
    let tensors = Tensors::new(&header.tensors)?;
    let config = front::config(&header.metadata, &tensors)?;
    let context = config.context.min(64);
    for (tokens, all_logits) in [(1, true), (context, false)] {
        let graph =
            front::build(&config, &tensors, EntryShape { tokens, context, step: tokens, kv: quant::F16, all_logits })?;
        for target in target::ALL {
            let fused = passes::run(graph.clone(), &PassContext { target }, |_, _| {})?;
            lower(&fused, tokens, target, &mut KernelTable::default())?;
        }
    }
    Ok(())
}

fuzz_target!(|header: &[u8]| -> Corpus {
    let _ = gguf::parse(header);
    let file = [header, &[0; DATA]].concat();
    match build(&file) {
        // A bug of rigc, not a fault of the file.
        Err(e @ Error::Verify { .. }) => panic!("{e}"),
        Err(e) => assert!(e.to_string().len() < 1000, "{e}"),
        Ok(()) => {}
    }
    Corpus::Keep
});
