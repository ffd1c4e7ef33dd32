//! The device: there is one.

use crate::abi::{Out, Text, write_text};
use crate::call::{Call, exports};
use crate::cards::{BLOCK, BLOCK_SHARED, BLOCK_THREADS, GRID, REGISTERS};
use crate::error::{Answer, Error};
use sha2::{Digest, Sha256};

exports! {
    Nothing {
        cuInit @2000 (Flags: u32) = init;
    }
    Device {
        cuDeviceGet @2000 (device: Out<i32>, ordinal: i32) = get;
        cuDeviceGetCount @2000 (count: Out<i32>) = count;
        cuDeviceGetName @2000 (name: Out<u8>, len: i32, dev: i32) = name;
        cuDeviceGetUuid @9020 (uuid: Out<[u8; 16]>, dev: i32) = uuid;
        cuDeviceGetUuid_v2 @11040 (uuid: Out<[u8; 16]>, dev: i32) = uuid;
        cuDeviceGetLuid @10000 (luid: Out<[u8; 8]>, deviceNodeMask: Out<u32>, dev: i32) = luid;
        cuDeviceTotalMem @2000 (bytes: Out<u32>, dev: i32) = total_memory_32;
        cuDeviceTotalMem_v2 @3020 (bytes: Out<usize>, dev: i32) = total_memory;
        cuDeviceGetAttribute @2000 (pi: Out<i32>, attrib: u32, dev: i32) = attribute;
        cuDeviceComputeCapability @2000 (major: Out<i32>, minor: Out<i32>, dev: i32) = compute_capability;
        cuDeviceGetProperties @2000 (prop: Out<[i32; 14]>, dev: i32) = properties;
        cuDeviceGetPCIBusId @4010 (pciBusId: Out<u8>, len: i32, dev: i32) = bus_id;
        cuDeviceGetByPCIBusId @4010 (dev: Out<i32>, pciBusId: Text) = by_bus_id;
        cuDeviceCanAccessPeer @4000 (canAccessPeer: Out<i32>, dev: i32, peerDev: i32) = can_access_peer;
        cuDeviceGetP2PAttribute @8000 (value: Out<i32>, attrib: u32, srcDevice: i32, dstDevice: i32) = peer_attribute;
        cuDeviceGetExecAffinitySupport @11040 (pi: Out<i32>, kind: u32, dev: i32) = affinity;
        cuDeviceGetTexture1DLinearMaxWidth @11010 (maxWidth: Out<usize>, format: u32, channels: u32, dev: i32) = no_textures;
    }
}

/// Where the only device is on its bus.
const BUS_ID: &str = "0000:01:00.0";

/// Refuses numbers of devices that are not there.
pub(super) fn check(device: i32) -> Answer {
    if device == 0 { Ok(()) } else { Err(Error::INVALID_DEVICE) }
}

fn init(call: &mut Call, flags: u32) -> Answer {
    if flags != 0 {
        return Err(Error::INVALID_VALUE);
    }
    call.init()
}

fn get(_: &mut Call, device: Out<i32>, ordinal: i32) -> Answer {
    check(ordinal)?;
    device.set(ordinal)
}

fn count(_: &mut Call, count: Out<i32>) -> Answer {
    count.set(1)
}

fn name(call: &mut Call, name: Out<u8>, length: i32, device: i32) -> Answer {
    check(device)?;
    let length = usize::try_from(length).map_err(|_| Error::INVALID_VALUE)?;
    write_text(name, length, call.settings()?.card.title)
}

/// The same for a card in every process.
fn uuid(call: &mut Call, uuid: Out<[u8; 16]>, device: i32) -> Answer {
    check(device)?;
    let hash = Sha256::digest(call.settings()?.card.title.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid.set(bytes)
}

fn luid(_: &mut Call, luid: Out<[u8; 8]>, mask: Out<u32>, device: i32) -> Answer {
    check(device)?;
    luid.set([0; 8])?;
    mask.set(0)
}

fn total_memory(call: &mut Call, bytes: Out<usize>, device: i32) -> Answer {
    check(device)?;
    bytes.set(call.settings()?.card.memory() as usize)
}

fn total_memory_32(call: &mut Call, bytes: Out<u32>, device: i32) -> Answer {
    check(device)?;
    bytes.set(u32::try_from(call.settings()?.card.memory()).unwrap_or(u32::MAX))
}

fn attribute(call: &mut Call, value: Out<i32>, attribute: u32, device: i32) -> Answer {
    check(device)?;
    value.set(call.settings()?.card.attribute(attribute).ok_or(Error::INVALID_VALUE)?)
}

fn compute_capability(call: &mut Call, major: Out<i32>, minor: Out<i32>, device: i32) -> Answer {
    check(device)?;
    let sm = call.settings()?.card.arch.sm as i32;
    major.set(sm / 10)?;
    minor.set(sm % 10)
}

/// `CUdevprop`.
fn properties(call: &mut Call, properties: Out<[i32; 14]>, device: i32) -> Answer {
    check(device)?;
    let clock = call.settings()?.card.attribute(13).unwrap_or(0);
    let [bx, by, bz] = BLOCK.map(|n| n as i32);
    let [gx, gy, gz] = GRID.map(|n| n as i32);
    let (threads, shared, registers) = (BLOCK_THREADS as i32, BLOCK_SHARED as i32, REGISTERS as i32);
    properties.set([threads, bx, by, bz, gx, gy, gz, shared, 64 << 10, 32, i32::MAX, registers, clock, 512])
}

fn bus_id(_: &mut Call, id: Out<u8>, length: i32, device: i32) -> Answer {
    check(device)?;
    let length = usize::try_from(length).map_err(|_| Error::INVALID_VALUE)?;
    write_text(id, length, BUS_ID)
}

fn by_bus_id(_: &mut Call, device: Out<i32>, id: Text) -> Answer {
    let id = id.string()?.to_lowercase();
    let known = [BUS_ID, &BUS_ID[5..], &BUS_ID[..10]];
    if known.contains(&id.as_str()) { device.set(0) } else { Err(Error::INVALID_DEVICE) }
}

/// A device is no peer of itself.
fn can_access_peer(_: &mut Call, can: Out<i32>, device: i32, peer: i32) -> Answer {
    check(device)?;
    check(peer)?;
    can.set(0)
}

fn peer_attribute(_: &mut Call, _: Out<i32>, _: u32, device: i32, peer: i32) -> Answer {
    check(device)?;
    check(peer)?;
    Err(Error::INVALID_DEVICE)
}

fn affinity(_: &mut Call, supported: Out<i32>, _: u32, device: i32) -> Answer {
    check(device)?;
    supported.set(0)
}

fn no_textures(_: &mut Call, width: Out<usize>, _: u32, _: u32, device: i32) -> Answer {
    check(device)?;
    width.set(0)
}
