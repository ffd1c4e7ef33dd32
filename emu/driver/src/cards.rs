//! The cards that the stand-in can be, as rows of figures, and what a driver answers when it is asked for the attributes of
//! one. What all cards of a compute capability have in common is a row of `ARCHITECTURES`.

use cudarc::driver::sys::CUdevice_attribute as A;

/// What the cards of a compute capability have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// Major times 10 plus minor.
    pub(crate) sm: u32,
    /// KiB of shared memory of a block, if it asks for more than 48, and of a multiprocessor.
    pub(crate) block_shared: u32,
    pub(crate) shared: u32,
    /// Threads and blocks of a multiprocessor.
    pub(crate) threads: u32,
    pub(crate) blocks: u32,
    /// Single-precision operations for one of double precision.
    pub(crate) double_ratio: u32,
}

const fn architecture(
    sm: u32,
    (block_shared, shared): (u32, u32),
    (threads, blocks): (u32, u32),
    double_ratio: u32,
) -> Architecture {
    Architecture { sm, block_shared, shared, threads, blocks, double_ratio }
}

const SM_80: Architecture = architecture(80, (163, 164), (2048, 32), 2);
const SM_89: Architecture = architecture(89, (99, 100), (1536, 24), 64);
const SM_90: Architecture = architecture(90, (227, 228), (2048, 32), 2);
const SM_120: Architecture = architecture(120, (99, 100), (1536, 24), 64);

/// A card.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// In settings.
    pub(crate) name: &'static str,
    /// As the driver says it.
    pub(crate) title: &'static str,
    pub(crate) arch: Architecture,
    pub(crate) multiprocessors: u32,
    /// GiB, as it is sold.
    gib: u32,
    /// MHz of the multiprocessors and of the memory.
    clock: u32,
    memory_clock: u32,
    /// Bits.
    bus: u32,
    /// MiB of second-level cache.
    l2: u32,
    ecc: bool,
}

macro_rules! cards {
    ($($name:literal $title:literal $arch:ident: $sms:literal, $gib:literal, $clock:literal, $memory:literal, $bus:literal, $l2:literal, $ecc:literal;)*) => {
        /// Every card; the first is the default.
        pub(crate) static CARDS: &[Card] = &[$(Card {
            name: $name, title: concat!($title, " (stand-in)"), arch: $arch, multiprocessors: $sms, gib: $gib,
            clock: $clock, memory_clock: $memory, bus: $bus, l2: $l2, ecc: $ecc,
        },)*];
    };
}

// Multiprocessors, GiB, MHz, MHz of the memory, bits of its bus, MiB of L2, error correction.
cards! {
    "rtx5090" "NVIDIA GeForce RTX 5090" SM_120: 170, 32, 2407, 14001, 512, 96, false;
    "rtx5080" "NVIDIA GeForce RTX 5080" SM_120: 84, 16, 2617, 15001, 256, 64, false;
    "rtx5070ti" "NVIDIA GeForce RTX 5070 Ti" SM_120: 70, 16, 2452, 14001, 256, 48, false;
    "rtxpro6000" "NVIDIA RTX PRO 6000 Blackwell" SM_120: 188, 96, 2617, 14001, 512, 128, true;
    "rtx4090" "NVIDIA GeForce RTX 4090" SM_89: 128, 24, 2520, 10501, 384, 72, false;
    "rtx4080" "NVIDIA GeForce RTX 4080" SM_89: 76, 16, 2505, 11201, 256, 64, false;
    "l40s" "NVIDIA L40S" SM_89: 142, 48, 2520, 9001, 384, 96, true;
    "a100" "NVIDIA A100-SXM4-40GB" SM_80: 108, 40, 1410, 1215, 5120, 40, true;
    "a100-80gb" "NVIDIA A100-SXM4-80GB" SM_80: 108, 80, 1410, 1593, 5120, 40, true;
    "h100" "NVIDIA H100 80GB HBM3" SM_90: 132, 80, 1980, 2619, 5120, 50, true;
    "h200" "NVIDIA H200" SM_90: 132, 141, 1980, 3201, 6144, 50, true;
}

/// Registers of a multiprocessor, and most of a block.
pub(crate) const REGISTERS: u32 = 1 << 16;
/// Threads of a block, at most.
pub(crate) const BLOCK_THREADS: u32 = 1024;
/// Threads of a block in each direction, at most.
pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid in each direction, at most.
pub(crate) const GRID: [u32; 3] = [(1 << 31) - 1, 65535, 65535];
/// Bytes of shared memory of a block that does not ask for more.
pub(crate) const BLOCK_SHARED: u32 = 48 << 10;
/// Bytes of shared memory that each block takes beside its own.
pub(crate) const RESERVED_SHARED: u32 = 1 << 10;

impl Card {
    /// Bytes of memory.
    pub(crate) fn memory(&self) -> u64 {
        u64::from(self.gib) << 30
    }

    /// Bytes of shared memory of a block that asks for it.
    pub(crate) fn block_shared(&self) -> u32 {
        self.arch.block_shared << 10
    }

    /// Bytes of shared memory of a multiprocessor.
    pub(crate) fn shared(&self) -> u32 {
        self.arch.shared << 10
    }

    /// The answer to a question for an attribute; `None` where there is no such attribute.
    pub(crate) fn attribute(&self, attribute: u32) -> Option<i32> {
        if let Some((_, value)) = COMMON.iter().find(|(a, _)| *a as u32 == attribute) {
            return Some(*value);
        }
        let value = self.own().into_iter().find(|(a, _)| *a as u32 == attribute).map(|(_, value)| value as i32);
        // Textures and what else the stand-in does not have: a driver knows the attribute, and here it is 0.
        value.or_else(|| (1..=A::CU_DEVICE_ATTRIBUTE_MAX as u32).contains(&attribute).then_some(0))
    }

    /// Attributes in which cards differ.
    fn own(&self) -> [(A, u32); 20] {
        let a = &self.arch;
        let hopper = u32::from(a.sm >= 90);
        [
            (A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, self.clock * 1000),
            (A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self.multiprocessors),
            (A::CU_DEVICE_ATTRIBUTE_ECC_ENABLED, u32::from(self.ecc)),
            (A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, self.memory_clock * 1000),
            (A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, self.bus),
            (A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, self.l2 << 20),
            (A::CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, (self.l2 << 20) / 4 * 3),
            (A::CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE, 128 << 20),
            (A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, a.threads),
            (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, a.blocks),
            (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, a.sm / 10),
            (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, a.sm % 10),
            (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, self.shared()),
            (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, self.block_shared()),
            (A::CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, a.double_ratio),
            (A::CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT, 1 + 3 * hopper),
            (A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, if self.ecc { 3 } else { 2 }),
            (A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, REGISTERS),
            (A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, REGISTERS),
            (A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, RESERVED_SHARED),
        ]
    }
}

/// Attributes that all cards share; those of the table that are not here either are 0.
static COMMON: &[(A, i32)] = &[
    (A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, BLOCK_THREADS as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, BLOCK[0] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, BLOCK[1] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, BLOCK[2] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, GRID[0] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, GRID[1] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, GRID[2] as i32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, BLOCK_SHARED as i32),
    (A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10),
    (A::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
    (A::CU_DEVICE_ATTRIBUTE_MAX_PITCH, i32::MAX),
    (A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512),
    (A::CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32),
    (A::CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512),
    (A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1),
    (A::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1),
    (A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 1),
    (A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
    (A::CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1),
    (A::CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1),
    (A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1),
    (A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1),
    (A::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_differ_in_name_and_answer_questions() {
        for (i, card) in CARDS.iter().enumerate() {
            assert!(CARDS[..i].iter().all(|c| c.name != card.name), "{}", card.name);
            assert!(card.title.ends_with("(stand-in)"));
            let ask = |a: A| card.attribute(a as u32);
            assert_eq!(ask(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), Some(32));
            assert!(ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) >= Some(8));
            assert_eq!(ask(A::CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH), Some(0));
            assert_eq!(card.attribute(0), None);
            assert_eq!(card.attribute(100_000), None);
        }
    }
}
