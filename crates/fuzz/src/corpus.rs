//! A target's seeds in one file: a `u32` length before each, all of it compressed with zstd.

use quire_types::{Reader, Writer};
use std::io;

/// More than all seeds of a target are together.
const BYTES_MAX: usize = 64 << 20;
const ZSTD_LEVEL: i32 = 19;

/// Packs seeds, in this order.
///
/// # Errors
/// If compression fails.
pub fn pack(seeds: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut out = Writer::new();
    for seed in seeds {
        out.length_prefixed(seed);
    }
    zstd::bulk::compress(out.as_slice(), ZSTD_LEVEL)
}

/// Reads back what [`pack`] made.
///
/// # Errors
/// If the bytes are not that.
pub fn unpack(packed: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let raw = zstd::bulk::decompress(packed, BYTES_MAX)?;
    let mut input = Reader::new(&raw);
    let mut seeds = Vec::new();
    while input.remaining() > 0 {
        let seed = input.length_prefixed("seed").map_err(io::Error::other)?;
        seeds.push(seed.to_vec());
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_unpacked_as_they_were_packed() {
        let seeds = vec![b"one".to_vec(), Vec::new(), vec![7; 10_000]];
        assert_eq!(unpack(&pack(&seeds).unwrap()).unwrap(), seeds);
        assert!(unpack(b"no seeds").is_err());
    }

    #[test]
    fn every_target_has_seeds() {
        for target in crate::TARGETS {
            assert!(!target.seeds().unwrap().is_empty(), "{}", target.name);
        }
    }
}
