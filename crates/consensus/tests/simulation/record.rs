//! Stand-ins for WAL records: a length, a checksum over content and position, and bytes that tell who wrote them.

use crate::random::Random;

const HEADER_BYTES: usize = 8;

/// The longest record; see [`length`].
pub const LONG_BYTES: usize = 5 << 18;

/// A record for this position. Two calls give different records, almost always.
pub fn record(position: u64, length: usize, random: &mut Random) -> Vec<u8> {
    let mut raw = vec![0; length];
    raw[..4].copy_from_slice(&(length as u32).to_le_bytes());
    for chunk in raw[HEADER_BYTES..].chunks_mut(64) {
        let word = random.next().to_le_bytes();
        let count = chunk.len().min(8);
        chunk[..count].copy_from_slice(&word[..count]);
    }
    let checksum = checksum(position, &raw);
    raw[4..HEADER_BYTES].copy_from_slice(&checksum);
    raw
}

/// Mostly short; if `long` is allowed, sometimes more than one message holds.
pub fn length(long: bool, random: &mut Random) -> usize {
    if long && random.percent(4) { LONG_BYTES } else { 16 + 8 * random.below(20) }
}

/// Bytes of complete records at the beginning of `wal`, whose first byte is at `position`.
pub fn complete(position: u64, wal: &[u8]) -> usize {
    let mut end = 0;
    while let Some(length) = first_record(position + end as u64, &wal[end..]) {
        end += length;
    }
    end
}

fn first_record(position: u64, wal: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*wal.first_chunk()?) as usize;
    let raw = wal.get(..length).filter(|_| length >= HEADER_BYTES)?;
    (raw[4..HEADER_BYTES] == checksum(position, raw)).then_some(length)
}

/// FNV-1a over the first eight bytes of each 64, which is where the content is.
fn checksum(position: u64, raw: &[u8]) -> [u8; 4] {
    let mut hash = 0xCBF2_9CE4_8422_2325 ^ position;
    for chunk in raw[HEADER_BYTES..].chunks(64) {
        for byte in &chunk[..chunk.len().min(8)] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
        hash = hash.wrapping_add(chunk[chunk.len() - 1].into());
    }
    ((hash >> 32) as u32).to_le_bytes()
}
