//! The stored versions of one page, as they are sent, and as they are put aside for a later look.
//!
//! ```text
//! 0   u32  number of versions, then for each
//! 0   u64  LSN
//! 8   u8   kind
//! 9   u32  payload length
//! 13  ...  payload
//! ```

use bytes::Bytes;
use quire_types::{CodecError, Lsn, Reader, Writer};

/// Bytes of a version beside its payload.
const VERSION_BYTES_MIN: usize = 13;

/// What the payload of a version is. The numbers are those of the pageserver's layer files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VersionKind {
    /// The page is zeroes from here on; no payload.
    Zeroes = 0,
    /// A page.
    Image = 2,
    /// A delta on the version before.
    Delta = 3,
    /// A delta that needs no version before.
    InitialDelta = 4,
    /// A page as PostgreSQL wrote it.
    Written = 5,
    /// An image that was logged without bytes that the page has.
    Partial = 6,
}

impl VersionKind {
    /// From its number.
    pub fn from_number(number: u8) -> Option<VersionKind> {
        use VersionKind::{Delta, Image, InitialDelta, Partial, Written, Zeroes};
        [Zeroes, Image, Delta, InitialDelta, Written, Partial].into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether the payload is a page.
    pub fn is_image(self) -> bool {
        matches!(self, VersionKind::Image | VersionKind::Written | VersionKind::Partial)
    }
}

/// One version of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageVersion {
    /// The end of the record it comes from, or of the last record it includes.
    pub lsn: Lsn,
    /// What the payload is.
    pub kind: VersionKind,
    /// The page, or an encoded delta.
    pub payload: Bytes,
}

/// Bytes that [`write()`] appends.
pub fn encoded_bytes(versions: &[PageVersion]) -> usize {
    versions.iter().fold(4, |sum, version| sum + VERSION_BYTES_MIN + version.payload.len())
}

/// Appends versions.
pub fn write(out: &mut Writer, versions: &[PageVersion]) {
    out.u32(versions.len() as u32);
    for version in versions {
        out.u64(version.lsn.0).u8(version.kind as u8).length_prefixed(&version.payload);
    }
}

/// Reads back what [`write()`] appended to `whole`, the memory of which the payloads share.
pub fn read(input: &mut Reader<'_>, whole: &Bytes) -> Result<Vec<PageVersion>, CodecError> {
    let count = input.u32("versions")?;
    let room = input.remaining() / VERSION_BYTES_MIN;
    match usize::try_from(count) {
        Ok(count) if count <= room => (0..count).map(|_| read_one(input, whole)).collect(),
        _ => Err(CodecError::Invalid { field: "versions", value: count.into() }),
    }
}

fn read_one(input: &mut Reader<'_>, whole: &Bytes) -> Result<PageVersion, CodecError> {
    let lsn = Lsn(input.u64("version's LSN")?);
    let number = input.u8("version's kind")?;
    let unknown = CodecError::Invalid { field: "version's kind", value: number.into() };
    let kind = VersionKind::from_number(number).ok_or(unknown)?;
    Ok(PageVersion { lsn, kind, payload: whole.slice_ref(input.length_prefixed("version")?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(raw: &Bytes) -> Result<Vec<PageVersion>, CodecError> {
        read(&mut Reader::new(raw), raw)
    }

    #[test]
    fn versions_read_back_and_a_false_count_is_refused() {
        use VersionKind::{Delta, Image, InitialDelta, Partial, Written, Zeroes};
        let kinds = [Zeroes, Image, Delta, InitialDelta, Written, Partial];
        let version = |kind| PageVersion { lsn: Lsn(kind as u64 + 9), kind, payload: Bytes::from_static(b"payload") };
        let versions = kinds.map(version);
        let mut out = Writer::new();
        write(&mut out, &versions);
        let mut raw = out.into_vec();
        assert_eq!(raw.len(), encoded_bytes(&versions));
        assert_eq!(read_all(&raw.clone().into()).expect("valid"), versions);
        raw[3] = 0xFF;
        assert!(matches!(read_all(&raw.into()), Err(CodecError::Invalid { field: "versions", .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_all(&raw.into());
        }
    }
}
