//! The last bytes of a layer file: where its parts are and what they span.

use super::frame::Extent;
use quire_types::key::KEY_BYTES;
use quire_types::{BranchId, BranchKey, CodecError, Key, Lsn, ProjectId, Reader, ShardId, Writer};

/// Starts and ends every layer file.
pub(super) const MAGIC: [u8; 8] = *b"QUIRELYR";

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// Bytes before the first data block: the magic and the version.
pub(super) const FILE_HEADER_BYTES: u64 = 12;

/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 182;

const RESERVED_BYTES: usize = 32;

/// What a layer spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Whose layer it is.
    pub branch: BranchKey,
    /// Which shard of the branch.
    pub shard: ShardId,
    /// The lowest key.
    pub first_key: Key,
    /// The highest key.
    pub last_key: Key,
    /// The lowest LSN of any version.
    pub first_lsn: Lsn,
    /// The highest LSN of any version.
    pub last_lsn: Lsn,
    /// Versions in it.
    pub versions: u64,
    /// Keys in it.
    pub keys: u64,
}

/// Where a layer's parts are. Data blocks come first, then the carries up to the bloom filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    /// What the layer spans.
    pub summary: Summary,
    /// End of the data blocks, start of the carries.
    pub carries: u64,
    /// The bloom filter, which follows the carries.
    pub bloom: Extent,
    /// The index.
    pub index: Extent,
}

impl Footer {
    /// The bytes, ending in the checksum of all before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let summary = &self.summary;
        let mut out = Writer::with_capacity(FOOTER_BYTES);
        out.bytes(&MAGIC).u32(VERSION);
        out.bytes(&summary.branch.project.0).bytes(&summary.branch.branch.0);
        out.u8(summary.shard.number).u8(summary.shard.count);
        out.bytes(&summary.first_key.encode()).bytes(&summary.last_key.encode());
        out.u64(summary.first_lsn.0).u64(summary.last_lsn.0).u64(summary.versions).u64(summary.keys);
        out.u64(self.carries);
        out.u64(self.bloom.offset).u32(self.bloom.length).u64(self.index.offset).u32(self.index.length);
        out.bytes(&[0; RESERVED_BYTES]);
        out.u32(crc32c::crc32c(out.as_slice()));
        out.into_vec()
    }

    /// Reads back what [`Footer::encode`] wrote.
    pub(super) fn decode(raw: &[u8]) -> Result<Footer, CodecError> {
        let mut reader = Reader::new(raw);
        check_magic(&mut reader)?;
        let branch =
            BranchKey { project: ProjectId(reader.array("project")?), branch: BranchId(reader.array("branch")?) };
        let shard = ShardId { number: reader.u8("shard number")?, count: reader.u8("shard count")? };
        let summary = Summary {
            branch,
            shard,
            first_key: Key::decode(reader.bytes("first key", KEY_BYTES)?)?,
            last_key: Key::decode(reader.bytes("last key", KEY_BYTES)?)?,
            first_lsn: Lsn(reader.u64("first lsn")?),
            last_lsn: Lsn(reader.u64("last lsn")?),
            versions: reader.u64("versions")?,
            keys: reader.u64("keys")?,
        };
        let carries = reader.u64("carries")?;
        let (bloom, index) = (read_extent(&mut reader)?, read_extent(&mut reader)?);
        reader.bytes("reserved", RESERVED_BYTES)?;
        let checksum = reader.u32("footer checksum")?;
        reader.finish()?;
        if crc32c::crc32c(&raw[..FOOTER_BYTES - 4]) == checksum {
            Ok(Footer { summary, carries, bloom, index })
        } else {
            Err(CodecError::Invalid { field: "footer checksum", value: checksum.into() })
        }
    }

    /// Whether the parts follow each other within a file of `file_bytes`.
    pub(super) fn fits(&self, file_bytes: u64) -> bool {
        let end = |extent: Extent| extent.offset.checked_add(u64::from(extent.length));
        let footer = file_bytes.checked_sub(FOOTER_BYTES as u64);
        FILE_HEADER_BYTES <= self.carries
            && self.carries <= self.bloom.offset
            && end(self.bloom) == Some(self.index.offset)
            && end(self.index).is_some_and(|end| Some(end) == footer)
    }
}

fn check_magic(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    let magic: [u8; 8] = reader.array("magic")?;
    let version = reader.u32("version")?;
    match (magic == MAGIC, version == VERSION) {
        (true, true) => Ok(()),
        (true, false) => Err(CodecError::Invalid { field: "version", value: version.into() }),
        (false, _) => Err(CodecError::Invalid { field: "magic", value: u64::from_le_bytes(magic) }),
    }
}

fn read_extent(reader: &mut Reader<'_>) -> Result<Extent, CodecError> {
    Ok(Extent { offset: reader.u64("offset")?, length: reader.u32("length")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        let summary = Summary {
            branch: BranchKey::default(),
            shard: ShardId::UNSHARDED,
            first_key: Key::ControlFile,
            last_key: Key::Checkpoint,
            first_lsn: Lsn(5),
            last_lsn: Lsn(6),
            versions: 7,
            keys: 2,
        };
        let (bloom, index) = (Extent { offset: 40, length: 10 }, Extent { offset: 50, length: 20 });
        Footer { summary, carries: 30, bloom, index }
    }

    #[test]
    fn it_has_its_fields_where_the_format_document_says() {
        let raw = footer().encode();
        assert_eq!(raw.len(), FOOTER_BYTES);
        assert_eq!(Footer::decode(&raw), Ok(footer()));
        assert_eq!(raw[90..98], 6u64.to_le_bytes());
        assert_eq!(raw[114..122], 30u64.to_le_bytes());
        assert_eq!(raw[142..146], 20u32.to_le_bytes());
        assert_eq!(raw[178..182], crc32c::crc32c(&raw[..178]).to_le_bytes());
    }

    #[test]
    fn parts_that_do_not_fill_the_file_do_not_fit() {
        assert!(footer().fits(70 + FOOTER_BYTES as u64));
        assert!(!footer().fits(71 + FOOTER_BYTES as u64));
        assert!(!Footer { carries: 41, ..footer() }.fits(70 + FOOTER_BYTES as u64));
        assert!(!Footer { index: Extent { offset: u64::MAX, length: 20 }, ..footer() }.fits(70 + FOOTER_BYTES as u64));
    }
}
