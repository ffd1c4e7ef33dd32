//! Bringing weights from the GGUF to the device: what goes where, then repacking and copying.
//!
//! A device may repack weights itself, once they are there as in the file. Large weights that kernels read as they are
//! in the file stay there, if the device can reach them; all others go to one allocation, piece by piece, so that no
//! second copy builds up.

use super::held::Held;
use crate::device::{self, Command, Device, Kernel, Launch, Memory, Region};
use crate::{Error, ModelFile, Result, repack};
use ir::artifact::{Manifest, Weight};
use ir::gguf::TensorInfo;
use ir::quant::Format;
use ir::tensor::{Elem, Layout};

/// Weights of at least this many bytes stay in the file where possible; smaller ones are better off with the others.
const IN_PLACE: u64 = 1 << 20;
/// Bytes that are repacked between two reports of progress, about.
const PIECE: usize = 32 << 20;
/// Alignment of each weight.
const ALIGN: u64 = 64;

/// A weight, checked against the model file.
struct Item<'m> {
    shard: usize,
    tensor: &'m TensorInfo,
    format: Format,
    rows: usize,
    columns: usize,
    layout: Layout,
    /// Bytes in its layout.
    bytes: u64,
    /// The number of the kernel that repacks it on the device.
    repack: Option<u32>,
}

impl<'m> Item<'m> {
    fn new(weight: &Weight, model: &'m ModelFile) -> Result<Item<'m>> {
        let (shard, tensor) = model.tensor(&weight.name)?;
        let (rows, columns) = (weight.ty.rows(), weight.ty.columns());
        let differs = |what: &str| {
            Error::input(format!(
                "{}: tensor '{}' is not the {} that the artifact was compiled for: {what}; compile the model again",
                model.path().display(),
                weight.name,
                weight.ty
            ))
        };
        if (weight.rows.len(), weight.columns.len()) != (rows, columns) {
            return Err(differs("it is a part of the tensor, and this version loads whole ones"));
        }
        let (Elem::Ggml(format), Some(bytes)) = (weight.ty.elem, weight.ty.weight_bytes()) else {
            return Err(differs("no GGUF tensor has such elements"));
        };
        if tensor.type_id != format.id {
            return Err(differs(&format!("its type is {}", tensor.type_name())));
        }
        if tensor.shape() != weight.ty.shape {
            return Err(differs(&format!("its shape is {:?}", tensor.shape())));
        }
        if columns % format.block as usize != 0 || tensor.bytes != rows as u64 * format.bytes_of(columns as u64) {
            return Err(differs(&format!("it has {} bytes", tensor.bytes)));
        }
        Ok(Item { shard, tensor, format, rows, columns, layout: weight.ty.layout, bytes, repack: weight.repack })
    }

    /// Whether it can stay in the file.
    fn in_place(&self) -> bool {
        self.layout == Layout::Rows && self.bytes >= IN_PLACE
    }
}

/// The weights to load.
pub(super) struct Loading<'m> {
    items: Vec<Item<'m>>,
}

impl<'m> Loading<'m> {
    /// Checks every weight of the manifest against the model file.
    pub fn new(manifest: &Manifest, model: &'m ModelFile) -> Result<Loading<'m>> {
        let items = manifest.weights.iter().map(|w| Item::new(w, model)).collect::<Result<_>>()?;
        Ok(Loading { items })
    }

    /// Bytes that will be allocated, if the device can read the file in place.
    pub fn bytes(&self) -> u64 {
        let own: u64 = self.items.iter().filter(|i| !i.in_place()).map(|i| i.bytes.next_multiple_of(ALIGN)).sum();
        own + self.staging_bytes()
    }

    /// The largest weight that the device repacks, as it is in the file.
    fn staging_bytes(&self) -> u64 {
        self.items.iter().filter(|i| i.repack.is_some()).map(|i| i.tensor.bytes).max().unwrap_or(0)
    }

    /// Loads all, and returns where each weight is. `control` has the control words of a step of one token, for kernels
    /// that repack.
    pub fn run(
        self,
        held: &mut Held,
        kernels: &[Kernel],
        control: Region,
        model: &ModelFile,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Region>> {
        let staging_bytes = self.staging_bytes();
        let mut regions = Vec::with_capacity(self.items.len());
        let mut size = 0;
        for item in &self.items {
            let imported = item.in_place().then(|| held.import(model.shards()[item.shard].share(item.tensor)));
            regions.push(match imported.flatten() {
                Some(region) => Ok(Region { bytes: item.bytes, ..region }),
                None => {
                    let offset = size;
                    size += item.bytes.next_multiple_of(ALIGN);
                    Err((offset, item))
                }
            });
        }
        let memory = held.alloc(size, "the weights' memory")?.memory;
        let staging = held.alloc(staging_bytes, "the memory for repacking")?;
        let mut device = held.device();
        let threads = rayon::ThreadPoolBuilder::new().num_threads(device.info().workers).build();
        let threads = threads.map_err(|e| Error::device(format!("the system refuses threads for loading: {e}")))?;
        let copies: Vec<_> = regions.iter().filter_map(|r| r.as_ref().err()).collect();
        let total = copies.iter().map(|(_, item)| item.tensor.bytes).sum();
        (progress)(0, total);
        let mut copier = Copier {
            device: &mut *device,
            kernels,
            control,
            model,
            memory,
            staging: staging.memory,
            threads,
            progress,
            done: 0,
            total,
        };
        for (i, (offset, item)) in copies.iter().enumerate() {
            match item.repack {
                Some(kernel) => copier.copy_raw(item, *offset, kernel)?,
                None => copier.copy(item, *offset, copies.get(i + 1).map(|(_, next)| *next))?,
            }
        }
        drop(device);
        held.free(staging);
        // Headers and samples are not read again; what stays in place is, page by page.
        model.shards().iter().for_each(|shard| shard.release(0, shard.bytes().len()));
        let region = |offset, bytes| Region { memory, offset, bytes };
        Ok(regions.into_iter().map(|r| r.unwrap_or_else(|(offset, item)| region(offset, item.bytes))).collect())
    }
}

/// Brings weights to one allocation.
struct Copier<'a> {
    device: &'a mut dyn Device,
    kernels: &'a [Kernel],
    control: Region,
    model: &'a ModelFile,
    memory: Memory,
    /// For what the device repacks.
    staging: Memory,
    threads: rayon::ThreadPool,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Copier<'_> {
    /// Brings `item` to the device as it is in the file, and lets the device repack it to `offset` by a kernel that the
    /// verified manifest has.
    fn copy_raw(&mut self, item: &Item<'_>, offset: u64, kernel: u32) -> Result<()> {
        let shard = &self.model.shards()[item.shard];
        let start = item.tensor.offset as usize;
        let source = &shard.bytes()[start..][..item.tensor.bytes as usize];
        for (i, piece) in source.chunks(PIECE).enumerate() {
            let at = i * PIECE;
            let to = Region { memory: self.staging, offset: at as u64, bytes: piece.len() as u64 };
            device::upload(self.device, to, piece)?;
            shard.release(start + at, piece.len());
            self.done += piece.len() as u64;
            (self.progress)(self.done, self.total);
        }
        let from = Region { memory: self.staging, offset: 0, bytes: source.len() as u64 };
        let to = Region { memory: self.memory, offset, bytes: item.bytes };
        let launch =
            Launch { kernel: self.kernels[kernel as usize], buffers: vec![Some(from), Some(to)], early: false };
        let recording = self.device.record(&[Command::Launch(launch)], self.control)?;
        self.device.replay(recording)?;
        self.device.sync()?;
        device::given_back(self.device, |device| device.erase(recording));
        Ok(())
    }

    /// Brings `item` to `offset`, while the system reads the `next` one from disk.
    fn copy(&mut self, item: &Item<'_>, offset: u64, mut next: Option<&Item<'_>>) -> Result<()> {
        let shard = &self.model.shards()[item.shard];
        let start = item.tensor.offset as usize;
        let source = &shard.bytes()[start..][..item.tensor.bytes as usize];
        let row = item.format.bytes_of(item.columns as u64) as usize;
        let tile_rows = item.layout.tile_rows();
        let rows_at_once = (PIECE / row.max(1)).next_multiple_of(tile_rows).max(tile_rows);
        let mut staging = Vec::new();
        for first in (0..item.rows).step_by(rows_at_once) {
            let rows = rows_at_once.min(item.rows - first);
            let from = &source[first * row..][..rows * row];
            let padded = repack::bytes(item.layout, item.format, rows, item.columns);
            let to = Region { memory: self.memory, offset: offset + (first * row) as u64, bytes: padded as u64 };
            let repack = |to: &mut [u8]| repack::repack(item.layout, item.format, from, rows, item.columns, to);
            let prefetch = || {
                if let Some(next) = next {
                    self.model.shards()[next.shard].prefetch(next.tensor);
                }
            };
            let in_place =
                self.device.host_bytes(self.memory).and_then(|b| b.get_mut(to.offset as usize..)?.get_mut(..padded));
            if let Some(bytes) = in_place {
                self.threads.join(prefetch, || repack(bytes));
            } else {
                staging.resize(padded, 0);
                self.threads.join(prefetch, || repack(&mut staging));
                device::upload(self.device, to, &staging)?;
            }
            next = None;
            shard.release(start + first * row, rows * row);
            self.done += (rows * row) as u64;
            (self.progress)(self.done, self.total);
        }
        Ok(())
    }
}
