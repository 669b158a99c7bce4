//! CRC-32C of short pieces, of which a log has millions.
//!
//! The library is made for long ones and spends on one of 60 bytes, as most records are, three times what the
//! processor's own instructions take: 14 ns against 4 ns, of about 200 that replaying the record takes in all.

/// From here on the library, which has the processor work at three places of a piece at once, is the faster one.
const LONG_BYTES: usize = 512;

/// The CRC-32C of what `crc` is that of, and of `bytes` behind it.
#[inline]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < LONG_BYTES && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor was just asked whether it has these instructions.
        return unsafe { append_short(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn append_short(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::_mm_crc32_u64;
    let (eights, rest) = bytes.as_chunks();
    let crc = eights.iter().fold(u64::from(!crc), |crc, eight| _mm_crc32_u64(crc, u64::from_le_bytes(*eight)));
    // The instruction leaves 32 bits.
    !append_rest(crc as u32, rest)
}

/// Four bytes, two and one, as many of them as there are.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn append_rest(mut crc: u32, mut rest: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32};
    if let Some((four, after)) = rest.split_first_chunk() {
        (crc, rest) = (_mm_crc32_u32(crc, u32::from_le_bytes(*four)), after);
    }
    if let Some((two, after)) = rest.split_first_chunk() {
        (crc, rest) = (_mm_crc32_u16(crc, u16::from_le_bytes(*two)), after);
    }
    rest.first().map_or(crc, |byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_crc_32c() {
        // The check value of CRC-32/ISCSI.
        assert_eq!(append(0, b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_what_the_library_says(
            bytes in proptest::collection::vec(any::<u8>(), 0..2 * LONG_BYTES),
            cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(append(append(0, first), second), crc32c::crc32c(&bytes));
        }
    }
}
