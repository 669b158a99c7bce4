//! Which file a meta file or a message is about.

use crate::error::CacheError;
use quire_types::{Fork, RelTag, Slru};

/// A file of pages: one segment of a relation's fork, or one of an SLRU area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileId {
    /// A relation's segment.
    Relation {
        /// The relation's fork.
        rel: RelTag,
        /// Segment number; its first block is this times
        /// [`RELATION_SEGMENT_BLOCKS`](quire_types::RELATION_SEGMENT_BLOCKS).
        segment: u32,
    },
    /// A segment of an SLRU area.
    Slru {
        /// The area.
        slru: Slru,
        /// Segment number; its first page is this times 32.
        segment: u32,
    },
}

/// Words a [`FileId`] is written in.
pub(crate) const FILE_ID_WORDS: usize = 6;

impl FileId {
    /// As six numbers: kind, tablespace, database, relation, fork or area, segment.
    pub(crate) fn to_words(self) -> [u32; FILE_ID_WORDS] {
        match self {
            FileId::Relation { rel, segment } => {
                [1, rel.tablespace, rel.database, rel.relation, rel.fork as u32, segment]
            }
            FileId::Slru { slru, segment } => [2, 0, 0, 0, slru as u32, segment],
        }
    }

    /// Reads back [`FileId::to_words`].
    pub(crate) fn from_words(words: [u32; FILE_ID_WORDS]) -> Result<FileId, CacheError> {
        let [kind, tablespace, database, relation, small, segment] = words;
        let wrong = |field, value: u32| CacheError::Invalid { field, value: value.into() };
        let small_byte = u8::try_from(small).unwrap_or(u8::MAX);
        match kind {
            1 => {
                let fork = Fork::from_number(small_byte).ok_or(wrong("fork", small))?;
                Ok(FileId::Relation { rel: RelTag { tablespace, database, relation, fork }, segment })
            }
            2 => {
                let slru = Slru::from_number(small_byte).ok_or(wrong("SLRU area", small))?;
                Ok(FileId::Slru { slru, segment })
            }
            other => Err(wrong("file kind", other)),
        }
    }
}
