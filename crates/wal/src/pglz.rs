//! Decompression of PostgreSQL's own LZ. Source: `pg_lzcompress.c` (`pglz_decompress`).
//!
//! The input is a row of groups: a control byte, whose bits from the lowest say for each of the next eight items
//! whether it is a literal byte (0) or a copy of earlier output (1). A copy is two bytes, or three: low nibble of the
//! first = length - 3, high nibble and second byte = distance back; length 18 takes a third byte that is added to it.

/// Shortest copy.
const LENGTH_MIN: usize = 3;
/// The length that announces a third byte.
const LENGTH_EXTENDED: usize = 18;

/// Decompresses `input` so that it fills `output` exactly, both used up to the last byte. Returns the length of
/// `output`, or `None` if the input is not that.
pub fn decompress_exact(input: &[u8], output: &mut [u8]) -> Option<usize> {
    let (mut input, mut filled) = (input, 0);
    while !input.is_empty() && filled < output.len() {
        let control = take(&mut input)?;
        for item in 0..8 {
            if input.is_empty() || filled == output.len() {
                break;
            }
            filled += if control >> item & 1 == 1 {
                copy_back(&mut input, output, filled)?
            } else {
                output[filled] = take(&mut input)?;
                1
            };
        }
    }
    (input.is_empty() && filled == output.len()).then_some(filled)
}

fn take(input: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = input.split_first()?;
    *input = rest;
    Some(first)
}

/// Carries out one copy to `output[filled..]`, cut at the end of the output, and returns its length.
fn copy_back(input: &mut &[u8], output: &mut [u8], filled: usize) -> Option<usize> {
    let (first, second) = (usize::from(take(input)?), usize::from(take(input)?));
    let mut length = (first & 0x0F) + LENGTH_MIN;
    if length == LENGTH_EXTENDED {
        length += usize::from(take(input)?);
    }
    let distance = (first & 0xF0) << 4 | second;
    if distance == 0 || distance > filled {
        return None;
    }
    let length = length.min(output.len() - filled);
    repeat(output, filled, distance, length);
    Some(length)
}

/// Copies `length` bytes from `distance` before `filled`. Where the two overlap the source repeats, so each round
/// copies all that is known of the pattern, which doubles it.
fn repeat(output: &mut [u8], filled: usize, distance: usize, length: usize) {
    let source = filled - distance;
    let mut copied = 0;
    while copied < length {
        let chunk = (distance + copied).min(length - copied);
        output.copy_within(source..source + chunk, filled + copied);
        copied += chunk;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decompress(input: &[u8], bytes: usize) -> Option<Vec<u8>> {
        let mut output = vec![0; bytes];
        decompress_exact(input, &mut output).map(|_| output)
    }

    #[test]
    fn literals_and_overlapping_copies_are_expanded() {
        // Control 0b1000: three literals, then a copy of 7 bytes from 3 back.
        assert_eq!(decompress(&[0b1000, b'a', b'b', b'c', 0x04, 3], 10), Some(b"abcabcabca".to_vec()));
        // Length 18 and a third byte: 18 + 2 copies of one literal.
        assert_eq!(decompress(&[0b10, b'x', 0x0F, 1, 2], 21), Some(vec![b'x'; 21]));
    }

    #[test]
    fn input_that_does_not_fill_the_output_exactly_is_refused() {
        let good = [0b1000, b'a', b'b', b'c', 0x04, 3];
        assert_eq!(decompress(&good, 11), None);
        assert_eq!(decompress(&good, 3), None);
        assert_eq!(decompress(&good[..5], 10), None);
        assert_eq!(decompress(&[1, 0x00, 0], 3), None, "distance 0");
        assert_eq!(decompress(&[0b10, b'a', 0x00, 2], 4), None, "distance before the start");
    }

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..300), bytes in 0usize..8192) {
            let _ = decompress(&input, bytes);
        }
    }
}
