//! The value of a size: how many blocks a fork, or pages an SLRU segment, has.

use crate::{CodecError, Reader};

/// A size as it is stored, a little-endian `u32`.
pub fn encode(blocks: u32) -> [u8; 4] {
    blocks.to_le_bytes()
}

/// Reads back what [`encode`] wrote, and nothing else.
pub fn decode(raw: &[u8]) -> Result<u32, CodecError> {
    let mut reader = Reader::new(raw);
    let blocks = reader.u32("size")?;
    reader.finish()?;
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_back_and_no_other_length_is_one() {
        assert_eq!(decode(&encode(131_073)), Ok(131_073));
        for raw in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 0]] {
            assert!(decode(raw).is_err(), "{raw:?}");
        }
    }
}
