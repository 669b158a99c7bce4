//! A version's value, and the form in which it is kept in memory and in layer files.
//!
//! In storage a version is a kind, a payload and an LSN; deltas are decoded only when they are replayed. Whether a
//! delta starts from a blank page is known when its record is ingested, and is part of the kind, because reads ask it
//! of every version they pass.

use bytes::Bytes;
use quire_protocol::page_version::{PageVersion, VersionKind};
use quire_redo::delta::Delta;
use quire_types::{Key, Lsn, PAGE_SIZE};

/// What a key is, or how it changes, at one LSN.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole page, 8 KiB.
    Image(Bytes),
    /// A page, 8 KiB, that was logged without bytes that PostgreSQL reads. Zeroes stand for them until the page comes
    /// as PostgreSQL wrote it.
    PartialImage(Bytes),
    /// A change of a page, applied to the version before it.
    Delta(Delta),
    /// A change of a page that depends on nothing that was before it: the record initialises the page.
    InitialDelta(Delta),
    /// The value of a key that is not a page.
    Bytes(Bytes),
    /// The key does not exist from here on; of a page: it is all zeroes from here on.
    Tombstone,
}

/// What the payload of a version is; the numbers are those of the layer file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The key ends, or the page is zeroes; no payload.
    Tombstone = 0,
    /// A value that is not a page's.
    Bytes = 1,
    /// A page.
    Image = 2,
    /// A delta on the version before.
    Delta = 3,
    /// A delta that needs no version before.
    InitialDelta = 4,
    /// A page as PostgreSQL wrote it.
    Written = 5,
    /// A page that was logged without bytes that PostgreSQL reads.
    Partial = 6,
}

impl Kind {
    /// From the number in a layer file.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::{Bytes, Delta, Image, InitialDelta, Partial, Tombstone, Written};
        [Tombstone, Bytes, Image, Delta, InitialDelta, Written, Partial].get(usize::from(number)).copied()
    }

    /// Whether a page can be rebuilt from this version on, without an older one.
    pub fn is_base(self) -> bool {
        self != Kind::Delta
    }

    /// Whether the payload is a page.
    pub fn is_image(self) -> bool {
        matches!(self, Kind::Image | Kind::Written | Kind::Partial)
    }

    /// Whether it takes a replay to make use of it.
    pub fn is_delta(self) -> bool {
        matches!(self, Kind::Delta | Kind::InitialDelta)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        ["tombstone", "bytes", "image", "delta", "initial delta", "image as written", "partial image"][self as usize]
    }
}

/// The place of a version among those of its key: its LSN, and whether it is something else than a delta. No two
/// versions of a key have the same.
pub type Place = (Lsn, bool);

/// A value at an LSN, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The end of the record it comes from, or of the last record it includes.
    pub lsn: Lsn,
    /// What the payload is.
    pub kind: Kind,
    /// The page, the encoded delta, or the value.
    pub payload: Bytes,
}

impl Version {
    /// Where it stands among the versions of its key. At one LSN there may be a delta, and after it a page that
    /// includes the delta.
    pub fn place(&self) -> Place {
        (self.lsn, !self.kind.is_delta())
    }

    /// The version that `value` makes of `key` at `lsn`; none if a key of this kind cannot have such a value.
    pub fn new(key: Key, lsn: Lsn, value: &Value) -> Option<Version> {
        let page = key.is_page();
        let (kind, payload) = match value {
            Value::Image(image) if page && image.len() == PAGE_SIZE => (Kind::Image, image.clone()),
            Value::PartialImage(image) if page && image.len() == PAGE_SIZE => (Kind::Partial, image.clone()),
            Value::Delta(delta) if page => (Kind::Delta, delta.encode()),
            Value::InitialDelta(delta) if page => (Kind::InitialDelta, delta.encode()),
            Value::Bytes(bytes) if !page => (Kind::Bytes, bytes.clone()),
            Value::Tombstone => (Kind::Tombstone, Bytes::new()),
            _ => return None,
        };
        Some(Version { lsn, kind, payload })
    }

    /// The same as a message; none if it is no version of a page.
    pub fn to_message(&self) -> Option<PageVersion> {
        let kind = VersionKind::from_number(self.kind as u8)?;
        Some(PageVersion { lsn: self.lsn, kind, payload: self.payload.clone() })
    }

    /// The value of a key that is not a page; none for a tombstone.
    pub fn into_bytes(self) -> Option<Bytes> {
        (self.kind == Kind::Bytes).then_some(self.payload)
    }
}
