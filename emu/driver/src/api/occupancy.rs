//! How many blocks a card has room for.

use super::launch::Config;
use crate::abi::{In, Out};
use crate::call::{Call, exports};
use crate::cards::Card;
use crate::code::Figures;
use crate::error::{Answer, Error};
use crate::loading::function_of;

exports! {
    Context {
        cuOccupancyMaxActiveBlocksPerMultiprocessor @6050 (numBlocks: Out<i32>, func: u64, blockSize: i32, dynamicSMemSize: usize) = blocks;
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags @7000 (numBlocks: Out<i32>, func: u64, blockSize: i32, dynamicSMemSize: usize, flags: u32) = blocks_with_flags;
        cuOccupancyMaxPotentialBlockSize @6050 (minGridSize: Out<i32>, blockSize: Out<i32>, func: u64, blockSizeToDynamicSMemSize: usize, dynamicSMemSize: usize, blockSizeLimit: i32) = best;
        cuOccupancyMaxPotentialBlockSizeWithFlags @7000 (minGridSize: Out<i32>, blockSize: Out<i32>, func: u64, blockSizeToDynamicSMemSize: usize, dynamicSMemSize: usize, blockSizeLimit: i32, flags: u32) = best_with_flags;
        cuOccupancyAvailableDynamicSMemPerBlock @10020 (dynamicSmemSize: Out<usize>, func: u64, numBlocks: i32, blockSize: i32) = available;
        cuOccupancyMaxActiveClusters @11070 (numClusters: Out<i32>, func: u64, config: In<Config>) = clusters;
        cuOccupancyMaxPotentialClusterSize @11070 (clusterSize: Out<i32>, func: u64, config: In<Config>) = cluster_size;
    }
}

fn figures(call: &mut Call, number: u64) -> Answer<(Figures, &'static Card)> {
    let function = function_of(call, number)?;
    let f = call.functions.get(function).ok_or(Error::INVALID_HANDLE)?;
    let entry = f.code.module.entries().get(f.entry).ok_or(Error::INVALID_HANDLE)?;
    Ok((Figures::of(entry), call.settings()?.card))
}

fn blocks(call: &mut Call, out: Out<i32>, number: u64, threads: i32, shared: usize) -> Answer {
    blocks_with_flags(call, out, number, threads, shared, 0)
}

fn blocks_with_flags(call: &mut Call, out: Out<i32>, number: u64, threads: i32, shared: usize, flags: u32) -> Answer {
    let (figures, card) = figures(call, number)?;
    if threads <= 0 || flags > 1 {
        return Err(Error::INVALID_VALUE);
    }
    let shared = u32::try_from(shared).unwrap_or(u32::MAX);
    out.set(figures.blocks(card, threads as u32, shared) as i32)
}

fn best(
    call: &mut Call,
    grid: Out<i32>,
    block: Out<i32>,
    number: u64,
    dynamic: usize,
    shared: usize,
    limit: i32,
) -> Answer {
    best_with_flags(call, grid, block, number, dynamic, shared, limit, 0)
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn best_with_flags(
    call: &mut Call,
    grid: Out<i32>,
    block: Out<i32>,
    number: u64,
    dynamic: usize,
    shared: usize,
    limit: i32,
    flags: u32,
) -> Answer {
    let (figures, card) = figures(call, number)?;
    if flags > 1 || limit < 0 {
        return Err(Error::INVALID_VALUE);
    }
    let fixed = u32::try_from(shared).unwrap_or(u32::MAX);
    let needs = |threads: u32| match dynamic {
        0 => fixed,
        function => {
            // SAFETY: the program gave this address as that of such a function.
            let f: extern "C" fn(i32) -> usize = unsafe { std::mem::transmute::<usize, _>(function) };
            u32::try_from(f(threads as i32)).unwrap_or(u32::MAX)
        }
    };
    let (threads, blocks) = figures.best_block(card, limit as u32, needs);
    if blocks == 0 {
        return Err(Error::INVALID_VALUE);
    }
    grid.set(blocks as i32)?;
    block.set(threads as i32)
}

fn available(call: &mut Call, out: Out<usize>, number: u64, blocks: i32, threads: i32) -> Answer {
    let (figures, card) = figures(call, number)?;
    let (Ok(blocks), Ok(threads)) = (u32::try_from(blocks), u32::try_from(threads)) else {
        return Err(Error::INVALID_VALUE);
    };
    out.set(figures.dynamic_shared(card, threads, blocks).ok_or(Error::INVALID_VALUE)? as usize)
}

/// Clusters are of one block.
fn clusters(call: &mut Call, out: Out<i32>, number: u64, config: In<Config>) -> Answer {
    let (figures, card) = figures(call, number)?;
    let (threads, shared) = config.get()?.block();
    out.set((figures.blocks(card, threads, shared) * card.multiprocessors) as i32)
}

fn cluster_size(call: &mut Call, out: Out<i32>, number: u64, _: In<Config>) -> Answer {
    function_of(call, number)?;
    out.set(1)
}
