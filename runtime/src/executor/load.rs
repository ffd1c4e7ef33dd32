//! Bringing weights from the GGUF to the device: what goes where, then repacking and copying.
//!
//! Large weights that kernels read as they are in the file stay there, if the device can reach them. All others go to one
//! allocation: the reader brings parts of them to a ring of buffers, in the order in which they lie in the file, and from
//! there they are repacked, by threads of the host straight to where they belong if it reaches that memory, or by the
//! device once a weight is there as in the file. Where the host does not reach it, the ring is staging memory, from which
//! the device copies while the next parts are read. Invariant: no more host memory than the ring. Next hop: `reader`,
//! `repack`.

use crate::device::{self, Command, Device, Held, Kernel, Launch, Lent, Memory, Recording, Region, Ticket};
use crate::reader::{self, Filled, Piece, Reading, Source};
use crate::sys::{self, Arena};
use crate::{Error, ModelFile, Result, repack};
use ir::artifact::{Manifest, Weight};
use ir::quant::Format;
use ir::tensor::{Elem, Layout, TensorType};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Weights of at least this many bytes stay in the file where possible; smaller ones are better off with the others.
const IN_PLACE: u64 = 1 << 20;
/// Bytes of a buffer for reading, unless a band of rows is longer.
const SLOT: usize = 4 << 20;
/// Bytes of all of them, unless that is less than four.
const RING: usize = 64 << 20;
/// The longest buffer; four of them are the most memory that reading takes.
const LONGEST_SLOT: usize = 64 << 20;
/// Bytes of what is copied at once that does not come through the ring.
const UPLOAD: usize = 8 << 20;
/// Alignment of each weight.
const ALIGN: u64 = 64;

/// A shape without the first dimension of 1, so that a vector is a matrix of one row.
fn plain(ty: &TensorType) -> &[usize] {
    ty.shape.strip_prefix(&[1]).filter(|rest| !rest.is_empty()).unwrap_or(&ty.shape)
}

/// A weight, checked against the model file: some columns of some rows of a tensor there, mostly all.
struct Item {
    shard: usize,
    /// Its first byte in the shard.
    start: u64,
    format: Format,
    rows: usize,
    columns: usize,
    /// Bytes of the file from a row to the next.
    stride: usize,
    /// The matrices that are padded by themselves.
    matrices: usize,
    layout: Layout,
    /// Bytes in its layout.
    bytes: u64,
    /// The number of the kernel that repacks it on the device.
    repack: Option<u32>,
}

impl Item {
    fn new(weight: &Weight, model: &ModelFile) -> Result<Item> {
        let (shard, tensor) = model.tensor(&weight.name)?;
        let differs = |what: &str| {
            Error::input(format!(
                "{}: tensor '{}' is not the {} that the artifact was compiled for: {what}; compile the model again",
                model.path().display(),
                weight.name,
                weight.ty
            ))
        };
        let (Elem::Ggml(format), Some(bytes)) = (weight.ty.elem, weight.ty.weight_bytes()) else {
            return Err(differs("no GGUF tensor has such elements"));
        };
        if tensor.type_id != format.id {
            return Err(differs(&format!("its type is {}", tensor.type_name())));
        }
        let whole = TensorType::new(weight.ty.elem, tensor.shape());
        let (all_rows, all_columns) = (whole.rows(), whole.columns());
        let [first_row, end_row, first, end] =
            [weight.rows.start, weight.rows.end, weight.columns.start, weight.columns.end].map(|n| n as usize);
        let is_whole = (first_row, end_row, first, end) == (0, all_rows, 0, all_columns);
        if end_row > all_rows || end > all_columns || (is_whole && plain(&whole) != plain(&weight.ty)) {
            return Err(differs(&format!("its shape is {:?}", plain(&whole))));
        }
        let block = format.block as usize;
        let stride = format.bytes_of(all_columns as u64);
        if all_columns % block != 0 || tensor.bytes != all_rows as u64 * stride {
            return Err(differs(&format!("it has {} bytes", tensor.bytes)));
        }
        if first % block != 0 || end % block != 0 {
            return Err(differs(&format!("columns {first} to {end} are no whole blocks of {block}")));
        }
        let (rows, columns) = (weight.ty.rows(), weight.ty.columns());
        let row = format.bytes_of(columns as u64);
        let (layout, repack, all) = (weight.ty.layout, weight.repack, weight.ty.matrices());
        let whole = (rows / all).is_multiple_of(layout.band_rows(format, columns));
        Ok(Item {
            shard,
            start: tensor.offset + first_row as u64 * stride + format.bytes_of(first as u64),
            format,
            rows,
            columns,
            stride: if rows == 1 { row } else { stride } as usize,
            matrices: if whole || repack.is_some() { 1 } else { all },
            layout,
            bytes,
            repack,
        })
    }

    /// Whether it can stay in the file.
    fn in_place(&self) -> bool {
        self.layout == Layout::Rows && self.bytes >= IN_PLACE && self.is_dense()
    }

    /// Whether nothing is between its rows in the file.
    fn is_dense(&self) -> bool {
        self.stride == self.row()
    }

    /// Bytes of a row.
    fn row(&self) -> usize {
        self.format.bytes_of(self.columns as u64) as usize
    }

    /// Bytes of all rows in the file, without what is between them.
    fn packed(&self) -> usize {
        self.rows * self.row()
    }

    /// Bytes that are repacked together or not at all, and bytes of the file from these to the next: of a band of rows; on
    /// the device of a row, or any.
    fn unit(&self) -> (usize, usize) {
        let rows = match self.repack {
            Some(_) if self.is_dense() => return (1, 1),
            Some(_) => 1,
            None => self.layout.band_rows(self.format, self.columns),
        };
        (rows.saturating_mul(self.row()).max(1), rows.saturating_mul(self.stride).max(1))
    }

    /// The parts of it that come after each other, of up to `most` bytes of the file or one unit, none of two matrices, if it
    /// begins at byte `offset` of its memory.
    fn parts(&self, offset: u64, most: usize) -> impl Iterator<Item = Part<'_>> {
        let (all, row, gap) = (self.packed() / self.matrices, self.row(), self.stride - self.row());
        let (unit, span) = self.unit();
        let step = (most / span).max(1) * unit;
        let part = move |matrix: usize, first: usize| {
            let bytes = step.min(all - first);
            let rows = bytes / row;
            let padded = match self.repack {
                Some(_) => bytes,
                None => repack::bytes(self.layout, self.format, rows, self.columns),
            };
            let to = offset + self.bytes / self.matrices as u64 * matrix as u64 + first as u64;
            let first = matrix * all + first;
            let (at, span) = (first + first / row * gap, bytes + rows.saturating_sub(1) * gap);
            Part { item: self, first, bytes, at: self.start + at as u64, span, to, padded }
        };
        (0..self.matrices).flat_map(move |matrix| (0..all).step_by(step).map(move |first| part(matrix, first)))
    }
}

/// A part of a weight that is read at once.
#[derive(Clone, Copy)]
struct Part<'i> {
    item: &'i Item,
    /// Its first byte and how many it has, of the rows without what is between them.
    first: usize,
    bytes: usize,
    /// Its first byte in the shard, and the bytes from there to its end.
    at: u64,
    span: usize,
    /// Its first byte in the memory for weights, and how many it has there; only together with the rest of the weight, if
    /// the device repacks it.
    to: u64,
    padded: usize,
}

impl Part<'_> {
    /// Shard and byte of it at which it begins.
    fn place(&self) -> (usize, u64) {
        (self.item.shard, self.at)
    }

    fn is_last(&self) -> bool {
        self.first + self.bytes == self.item.packed()
    }

    fn piece<'a>(&self, sources: &'a [Box<dyn Source + 'a>]) -> Piece<'a> {
        Piece { source: &*sources[self.item.shard], offset: self.at, bytes: self.span }
    }

    /// Its rows, of what the file has from its beginning to its end.
    fn rows<'b>(&self, from: &'b [u8]) -> Cow<'b, [u8]> {
        match self.item.is_dense() {
            true => Cow::Borrowed(from),
            false => Cow::Owned(
                from.chunks(self.item.stride).map(|row| &row[..self.item.row()]).collect::<Vec<_>>().concat(),
            ),
        }
    }

    /// Whether it goes to the device as it is read, but for what is between its rows.
    fn is_as_read(&self) -> bool {
        self.item.repack.is_some() || self.item.layout == Layout::Rows
    }

    /// Moves its rows together, of what the file has from its beginning to its end.
    fn pack(&self, bytes: &mut [u8]) {
        let (row, stride) = (self.item.row(), self.item.stride);
        if !self.item.is_dense() {
            (1..self.bytes / row).for_each(|r| bytes.copy_within(r * stride..r * stride + row, r * row));
        }
    }

    /// Brings what is in the file to the layout of its item.
    fn repack(&self, from: &[u8], to: &mut [u8]) {
        let &Item { layout, format, columns, .. } = self.item;
        repack::repack(layout, format, &self.rows(from), self.bytes / self.item.row(), columns, to);
    }
}

/// The weights to load.
pub(super) struct Loading {
    items: Vec<Item>,
}

impl Loading {
    /// Checks every weight of the manifest against the model file.
    pub fn new(manifest: &Manifest, model: &ModelFile) -> Result<Loading> {
        let items = manifest.weights.iter().map(|w| Item::new(w, model)).collect::<Result<_>>()?;
        Ok(Loading { items })
    }

    /// Bytes that will be allocated, if the device can read the file in place.
    pub fn bytes(&self) -> u64 {
        let own: u64 = self.items.iter().filter(|i| !i.in_place()).map(|i| i.bytes.next_multiple_of(ALIGN)).sum();
        let (slot, count) = self.ring();
        own + self.staging_bytes() + (slot * count) as u64
    }

    /// The largest weight that the device repacks, as it is in the file.
    fn staging_bytes(&self) -> u64 {
        self.items.iter().filter(|i| i.repack.is_some()).map(|i| i.packed() as u64).max().unwrap_or(0)
    }

    /// The bytes of each buffer for reading, and their number: those that suit every weight, but for units that are longer
    /// than the longest buffer.
    fn ring(&self) -> (usize, usize) {
        let spans = self.items.iter().map(|i| (i.unit().1, i.rows * i.stride));
        let spans = spans.filter(|(unit, _)| *unit <= reader::payload(LONGEST_SLOT));
        let piece = spans.map(|(unit, all)| unit.max(reader::payload(SLOT).min(all))).max();
        let slot = reader::slot_for(piece.unwrap_or(0));
        let parts: usize = self.items.iter().map(|i| i.parts(0, reader::payload(slot)).count()).sum();
        (slot, (RING / slot).max(4).min(parts))
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
        let (slot, count) = self.ring();
        let ring_bytes = (slot * count) as u64;
        let mut regions = Vec::with_capacity(self.items.len());
        let mut parts: Vec<Part> = Vec::new();
        let mut size = 0;
        for item in &self.items {
            let imported =
                item.in_place().then(|| held.import(model.shards()[item.shard].share(item.start, item.packed())));
            regions.push(match imported.flatten() {
                Some(region) => Ok(Region { bytes: item.bytes, ..region }),
                None => {
                    let offset = size;
                    parts.extend(item.parts(offset, reader::payload(slot)));
                    size += item.bytes.next_multiple_of(ALIGN);
                    Err((offset, item.bytes))
                }
            });
        }
        let memory = held.alloc(size, "the weights' memory")?.memory;
        let staging = held.alloc(self.staging_bytes(), "the memory for repacking")?;
        let on_host = held.device().host_bytes(memory).is_some();
        let total: u64 = parts.iter().map(|part| part.bytes as u64).sum();
        (progress)(0, total);
        let (here, there): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| on_host && p.item.repack.is_none());
        let threads = ThreadPoolBuilder::new().num_threads(held.device().info().workers).build();
        let threads = threads.map_err(|e| Error::device(format!("the system refuses threads for loading: {e}")))?;
        let payload = reader::payload(slot);
        let mut loader = Loader { model, payload, threads, progress: Progress { tell: progress, done: 0, total } };
        if !here.is_empty() {
            // A host that computes itself is often slow to read and started again: where there is room for the file beside
            // the weights, the next start finds it in the page cache.
            let room = sys::memory::available().is_some_and(|have| size + total + total / 4 <= have);
            let mut ring = Arena::new(ring_bytes, "the buffers for reading")?;
            let mut slots = ring.bytes_mut().chunks_exact_mut(slot).collect();
            let mut device = held.device();
            let memory = device.host_bytes(memory).ok_or_else(|| Error::device("the weights are out of reach"))?;
            loader.bring_to_host(here, Reading { lends: true, keeps: room }, &mut slots, memory)?;
        }
        if !there.is_empty() {
            let ring = held.staging(ring_bytes, "the buffers for reading")?;
            let lent = held.device().lend(ring.memory);
            let mut slots = lent.ok_or_else(|| Error::device("staging memory is out of reach"))?.cut(slot);
            let mut device = held.device();
            let mut uploader = Uploader {
                device: &mut *device,
                kernels,
                control,
                memory,
                staging: staging.memory,
                recordings: Vec::new(),
            };
            let brought = loader.bring_to_device(there, &mut slots, &mut uploader);
            let settled = uploader.device.sync();
            uploader.end();
            drop(device);
            brought.and(settled)?;
            drop(slots);
            held.free(ring);
        }
        held.free(staging);
        // Headers and samples are not read again; what stays in place is, page by page.
        model.shards().iter().for_each(|shard| shard.release(0, shard.bytes().len()));
        let region = |(offset, bytes)| Region { memory, offset, bytes };
        Ok(regions.into_iter().map(|r| r.unwrap_or_else(region)).collect())
    }
}

/// Tells how many bytes of weights are loaded.
struct Progress<'a> {
    tell: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Progress<'_> {
    fn reach(&mut self, done: u64) {
        if done > self.done {
            self.done = done;
            (self.tell)(done, self.total);
        }
    }
}

/// Brings parts of weights to where they belong.
struct Loader<'a> {
    model: &'a ModelFile,
    /// The longest piece for a slot.
    payload: usize,
    threads: ThreadPool,
    progress: Progress<'a>,
}

/// The shards of a model, to be read like that.
fn sources(model: &ModelFile, reading: Reading) -> Vec<Box<dyn Source + '_>> {
    model.shards().iter().map(|shard| shard.source(reading)).collect()
}

impl Loader<'_> {
    /// Repacks parts, which are in the order of their places in `memory`, to there, several at once.
    fn bring_to_host(
        &mut self,
        parts: Vec<Part>,
        reading: Reading,
        slots: &mut Vec<&mut [u8]>,
        memory: &mut [u8],
    ) -> Result<()> {
        let mut rest = memory;
        let mut end = 0;
        let mut jobs = Vec::with_capacity(parts.len());
        for part in parts {
            let to = rest.split_off_mut((part.to - end) as usize..).and_then(|mut from_here| {
                let to = from_here.split_off_mut(..part.padded);
                rest = from_here;
                to
            });
            end = part.to + part.padded as u64;
            jobs.push((part, to.ok_or_else(|| Error::device("the weights' memory is too small"))?));
        }
        let (mut jobs, long): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(part, _)| part.span <= self.payload);
        for (part, to) in long {
            self.mapped(&part, |from, threads| threads.install(|| part.repack(from, to)));
        }
        jobs.sort_by_key(|(part, _)| part.place());
        let sources = sources(self.model, reading);
        let Loader { threads, progress, .. } = self;
        let pieces: Vec<Piece> = jobs.iter().map(|(part, _)| part.piece(&sources)).collect();
        let done = AtomicU64::new(progress.done);
        reader::read(&pieces, slots, |reader| {
            threads.in_place_scope(|scope| {
                for (part, to) in jobs {
                    let Some(filled) = reader.next() else { break };
                    let done = &done;
                    scope.spawn(move |_| {
                        part.repack(filled.bytes(), to);
                        done.fetch_add(part.bytes as u64, Ordering::Relaxed);
                    });
                    progress.reach(done.load(Ordering::Relaxed));
                }
            });
            Ok(())
        })?;
        progress.reach(done.into_inner());
        Ok(())
    }

    /// Brings parts, those of an item after each other, to a device that the host cannot write for, or that repacks them
    /// itself. They are copied from where they were read to: half of the slots are read to meanwhile.
    fn bring_to_device(
        &mut self,
        mut parts: Vec<Part>,
        slots: &mut Vec<Lent>,
        uploader: &mut Uploader<'_>,
    ) -> Result<()> {
        parts.sort_by_key(Part::place);
        let (parts, long): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.span <= self.payload);
        for part in long {
            self.mapped(&part, |from, threads| uploader.bring(&part, from, threads))?;
        }
        // What is in the page cache is to be copied to the ring as well.
        let sources = sources(self.model, Reading { lends: false, keeps: false });
        let Loader { threads, progress, .. } = self;
        let pieces: Vec<Piece> = parts.iter().map(|part| part.piece(&sources)).collect();
        let most = slots.len().div_ceil(2);
        reader::read(&pieces, slots, |reader| {
            let mut flying: VecDeque<(Ticket, Filled<'_, Lent>)> = VecDeque::new();
            let brought = parts.iter().try_for_each(|part| {
                if flying.len() == most
                    && let Some(&(ticket, _)) = flying.front()
                {
                    uploader.device.wait(ticket)?;
                    flying.pop_front();
                }
                let Some(mut filled) = reader.next() else { return Ok(()) };
                match filled.slot().filter(|_| part.is_as_read()) {
                    Some((slot, start)) => {
                        part.pack(&mut slot.as_mut()[start..][..part.span]);
                        let from = slot.region();
                        let from = Region { offset: from.offset + start as u64, bytes: part.bytes as u64, ..from };
                        // The slot is not read to again before the copy has ended, whatever fails.
                        flying.push_back((uploader.copy(part, from)?, filled));
                        uploader.finish(part)?;
                    }
                    None => uploader.bring(part, filled.bytes(), threads)?,
                }
                progress.reach(progress.done + part.bytes as u64);
                Ok(())
            });
            // Slots go back to the reading threads.
            let settled = uploader.device.sync();
            drop(flying);
            brought.and(settled)
        })
    }

    /// Takes a part, longer than a slot, from the mapped file.
    fn mapped<R>(&mut self, part: &Part, take: impl FnOnce(&[u8], &ThreadPool) -> R) -> R {
        let (shard, offset) = part.place();
        let shard = &self.model.shards()[shard];
        let result = take(&shard.bytes()[offset as usize..][..part.span], &self.threads);
        shard.release(offset as usize, part.span);
        self.progress.reach(self.progress.done + part.bytes as u64);
        result
    }
}

/// Brings parts of weights to a device.
struct Uploader<'a> {
    device: &'a mut dyn Device,
    kernels: &'a [Kernel],
    control: Region,
    /// For weights.
    memory: Memory,
    /// For one that the device repacks, as in the file.
    staging: Memory,
    /// Of kernels that repack, which may still run.
    recordings: Vec<Recording>,
}

impl Uploader<'_> {
    /// Where a part goes, which has so many bytes there.
    fn place(&self, part: &Part, bytes: u64) -> Region {
        match part.item.repack {
            Some(_) => Region { memory: self.staging, offset: part.first as u64, bytes },
            None => Region { memory: self.memory, offset: part.to, bytes },
        }
    }

    /// Copies a part, which is as it goes to the device, from staging memory.
    fn copy(&mut self, part: &Part, from: Region) -> Result<Ticket> {
        self.device.copy(from, self.place(part, from.bytes))
    }

    /// Brings a part from where it is in the file.
    fn bring(&mut self, part: &Part, from: &[u8], threads: &ThreadPool) -> Result<()> {
        let bytes = match part.item.repack {
            Some(_) => part.rows(from),
            None => {
                let mut repacked = vec![0; part.padded];
                threads.install(|| part.repack(from, &mut repacked));
                Cow::Owned(repacked)
            }
        };
        let to = self.place(part, bytes.len() as u64);
        for (n, piece) in bytes.chunks(UPLOAD).enumerate() {
            let (offset, bytes) = (to.offset + (n * UPLOAD) as u64, piece.len() as u64);
            device::upload(self.device, Region { offset, bytes, ..to }, piece)?;
        }
        self.finish(part)
    }

    /// After the last part of a weight, a kernel that the verified manifest has repacks it.
    fn finish(&mut self, part: &Part) -> Result<()> {
        let Some(kernel) = part.item.repack.filter(|_| part.is_last()) else { return Ok(()) };
        let from = Region { memory: self.staging, offset: 0, bytes: part.item.packed() as u64 };
        let to = Region { memory: self.memory, offset: part.to - part.first as u64, bytes: part.item.bytes };
        let launch =
            Launch { kernel: self.kernels[kernel as usize], buffers: vec![Some(from), Some(to)], early: false };
        let recording = self.device.record(&[Command::Launch(launch)], self.control)?;
        self.recordings.push(recording);
        self.device.replay(recording)
    }

    /// Gives back what only loading needed, once nothing of it runs.
    fn end(&mut self) {
        for recording in self.recordings.drain(..) {
            device::given_back(self.device, |device| device.erase(recording));
        }
    }
}

#[cfg(test)]
mod tests;
