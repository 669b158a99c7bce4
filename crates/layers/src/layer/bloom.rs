//! A bloom filter over a layer's keys: ten bits a key, seven probes, about 1 % false positives.
//!
//! The hash is FNV-1a over the 18 bytes of the key, finished with the 64-bit mixer of MurmurHash3; the probes are
//! double hashing with its two halves. Both are fixed here because filters are kept in files.

use quire_types::{CodecError, Key, Reader, Writer};

const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 7;

/// Says "not here" or "perhaps".
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    /// The filter over keys with these hashes.
    pub(super) fn build(hashes: &[u64]) -> Bloom {
        let bits = (hashes.len() as u64 * BITS_PER_KEY).max(64);
        let mut bloom = Bloom { words: vec![0; bits.div_ceil(64) as usize] };
        for &hash in hashes {
            bloom.probes(hash).for_each(|bit| bloom.words[(bit / 64) as usize] |= 1 << (bit % 64));
        }
        bloom
    }

    /// Whether a key with this hash may be in the layer.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.probes(hash).all(|bit| self.words[(bit / 64) as usize] & 1 << (bit % 64) != 0)
    }

    fn probes(&self, hash: u64) -> impl Iterator<Item = u64> + use<> {
        let bits = self.words.len() as u64 * 64;
        let (first, step) = (hash >> 32, (hash & 0xFFFF_FFFF) | 1);
        (0..u64::from(PROBES)).map(move |probe| first.wrapping_add(probe.wrapping_mul(step)) % bits)
    }

    /// The words, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.words.len() * 8);
        self.words.iter().for_each(|word| {
            out.u64(*word);
        });
        out.into_vec()
    }

    /// Reads back what [`Bloom::encode`] wrote.
    pub(super) fn decode(raw: &[u8]) -> Result<Bloom, CodecError> {
        let mut reader = Reader::new(raw);
        let mut words = Vec::with_capacity(raw.len() / 8);
        while reader.remaining() > 0 {
            words.push(reader.u64("bloom word")?);
        }
        if words.is_empty() { Err(CodecError::Invalid { field: "bloom words", value: 0 }) } else { Ok(Bloom { words }) }
    }
}

/// The hash of a key.
pub(super) fn hash(key: Key) -> u64 {
    let fnv = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let mixed = key.encode().iter().fold(0xCBF2_9CE4_8422_2325, fnv);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ mixed >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u32, count: u32) -> Vec<u64> {
        (from..from + count).map(|xid| hash(Key::TwoPhase { xid })).collect()
    }

    #[test]
    fn no_key_is_missed_and_few_strangers_pass() {
        let bloom = Bloom::decode(&Bloom::build(&hashes(0, 10_000)).encode()).unwrap();
        assert!(hashes(0, 10_000).into_iter().all(|hash| bloom.may_contain(hash)));
        let others = hashes(1_000_000, 10_000).into_iter().filter(|&hash| bloom.may_contain(hash)).count();
        assert!(others < 200, "{others} of 10,000");
    }

    #[test]
    fn the_hash_is_the_one_in_files() {
        assert_eq!(hash(Key::ControlFile), hash(Key::ControlFile));
        assert_ne!(hash(Key::ControlFile), hash(Key::Checkpoint));
    }
}
