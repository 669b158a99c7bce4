//! What a branch is told by its log about full-page writes.

use quire_types::{CodecError, Lsn, Reader, Writer};

/// Whether full-page writes are on, and since when: the value of `Key::FullPageWrites`.
///
/// The evidence is the `fullPageWrites` field of checkpoints and the `XLOG_FPW_CHANGE` record; the last one wins. It
/// is a hint for policy and says nothing of single pages: images still come while it is off, and may be missing for a
/// while after it went on.
///
/// Encoded in 9 bytes: `on` (0 or 1), then `since` as a little-endian `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullPageWrites {
    /// Whether they are on.
    pub on: bool,
    /// End of the record that said so first; the import's start if that is all that is known.
    pub since: Lsn,
}

impl FullPageWrites {
    /// The 9 bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::with_capacity(9);
        out.u8(u8::from(self.on)).u64(self.since.0);
        out.into_vec()
    }

    /// Reads back what [`FullPageWrites::encode`] wrote.
    pub fn decode(raw: &[u8]) -> Result<FullPageWrites, CodecError> {
        let mut input = Reader::new(raw);
        let on = match input.u8("full-page writes")? {
            0 => false,
            1 => true,
            other => return Err(CodecError::Invalid { field: "full-page writes", value: other.into() }),
        };
        let since = Lsn(input.u64("since")?);
        input.finish()?;
        Ok(FullPageWrites { on, since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_nine_bytes() {
        let state = FullPageWrites { on: true, since: Lsn(0x0102) };
        assert_eq!(state.encode(), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(FullPageWrites::decode(&state.encode()), Ok(state));
        assert!(FullPageWrites::decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
