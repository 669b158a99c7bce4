//! Why a delta could not be applied.

use quire_types::{CodecError, Key, Lsn, Slru};
use quire_wal::WalError;
use quire_wal::record::Malformed;
use std::fmt;

/// A delta that cannot be applied to a page. The page's contents are undefined afterwards.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RedoError {
    /// The stored bytes are no WAL record.
    #[error("invalid record at {start}: {reason}")]
    Malformed {
        /// Where the record starts.
        start: Lsn,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// The record has no block reference to the page.
    #[error("record at {start} does not touch {key}")]
    NotReferenced {
        /// Where the record starts.
        start: Lsn,
        /// The page.
        key: Key,
    },
    /// The image in the record cannot be found or restored.
    #[error("image of {key} in the record at {start}: {source}")]
    Image {
        /// Where the record starts.
        start: Lsn,
        /// The page.
        key: Key,
        /// What is wrong with the image.
        source: WalError,
    },
    /// No redo is known for this kind of record.
    #[error("redo of {kind} is not supported (record at {start})")]
    Unsupported {
        /// Where the record starts.
        start: Lsn,
        /// The kind of record.
        kind: RecordKind,
    },
    /// The page already is as new as the record: it would be applied twice.
    #[error("{key} at {page_lsn} is not older than the record ending at {lsn}")]
    NotNewer {
        /// The page.
        key: Key,
        /// The page's LSN.
        page_lsn: Lsn,
        /// The record's end.
        lsn: Lsn,
    },
    /// The record does not fit the page.
    #[error("redo of {kind} ending at {lsn} on {key}: {reason}")]
    Misfit {
        /// The kind of record.
        kind: RecordKind,
        /// The record's end.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// What does not fit.
        reason: Misfit,
    },
    /// The effect belongs on another kind of page, or another page.
    #[error("{what} at {lsn} do not belong on {key}")]
    WrongPage {
        /// What was to be changed.
        what: Effect,
        /// The LSN of the change.
        lsn: Lsn,
        /// The page it was applied to.
        key: Key,
    },
}

/// What a delta that is no record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bits of the visibility map.
    Visibility,
    /// Entries of an SLRU area.
    Slru(Slru),
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Visibility => f.write_str("visibility map bits"),
            Effect::Slru(slru) => write!(f, "entries of {}", slru.directory()),
        }
    }
}

/// A resource manager and the kind of record within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKind {
    /// The resource manager.
    pub rmgr: u8,
    /// `xl_info`.
    pub info: u8,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match quire_wal::rmgr::name(self.rmgr) {
            Some(name) => write!(f, "{name} record {:#04x}", self.info & 0xF0),
            None => write!(f, "resource manager {} record {:#04x}", self.rmgr, self.info & 0xF0),
        }
    }
}

/// What about a record does not fit the page it is applied to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// `pd_lower`, `pd_upper` and `pd_special` contradict each other.
    #[error("corrupt page header: lower {lower}, upper {upper}, special {special}")]
    Header {
        /// `pd_lower`.
        lower: u16,
        /// `pd_upper`.
        upper: u16,
        /// `pd_special`.
        special: u16,
    },
    /// The special space has not the size that the kind of page has.
    #[error("the special space has {0} bytes")]
    Special(usize),
    /// No line pointer has this offset number, or a new one would leave a gap.
    #[error("no item {offset} on a page of {count}")]
    NoItem {
        /// The offset number.
        offset: u16,
        /// Line pointers on the page.
        count: usize,
    },
    /// The line pointer is not in the state that the record expects.
    #[error("item {0} is in the wrong state")]
    ItemState(u16),
    /// The line pointer points outside the page's tuple space.
    #[error("item {offset} is at {start} for {length} bytes")]
    ItemBounds {
        /// The offset number.
        offset: u16,
        /// Where the item starts.
        start: usize,
        /// Its length.
        length: usize,
    },
    /// A new item does not fit in.
    #[error("no room for {0} bytes")]
    NoRoom(usize),
    /// More line pointers than a page of this kind may have.
    #[error("too many items")]
    TooManyItems,
    /// The record's data is too short or too long.
    #[error("record data: {0}")]
    Data(#[from] CodecError),
    /// A field says something that cannot be.
    #[error("{field} is {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// This kind of record has no business with this block reference.
    #[error("unexpected block reference {0}")]
    UnexpectedBlock(u8),
    /// A block reference that this kind of record must have is missing.
    #[error("block reference {0} is missing")]
    MissingBlock(u8),
    /// The record is of a kind that exists only to carry an image, and carries none.
    #[error("the page image is missing")]
    MissingImage,
}
