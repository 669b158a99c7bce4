//! What is in files: those of storage, of PostgreSQL's data directory, and those that shim and agent share.
//!
//! The first byte of the input is the number of a [`Format`], the rest is the file. Magic numbers, versions and
//! checksums are put right, unless the second byte says that the file is taken as it is. What is understood must encode
//! to what is understood the same. A file that needs to be opened is in memory.

mod layer;
mod shared;

use crate::input::Input;
use quire_ingest::Ingest;
use quire_layers::manifest::Manifest;
use quire_redo::Delta;
use quire_safekeeper::StateFile;
use quire_types::{Key, Writer};
use quire_wal::effects::replorigin::{self, OriginState};
use quire_wal::effects::{FullPageWrites, relmap};
use quire_wal::postgres_version::PG15;
use quire_wal::{CheckpointState, ControlFile, DataPath, rmgr};
use std::fmt::Debug;

pub use layer::layer_seed;

/// A kind of file, or of something in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Format {
    /// A shard's manifest.
    Manifest,
    /// A layer, made of its parts.
    LayerParts,
    /// A layer as it is.
    Layer,
    /// A safekeeper's state of a branch.
    SafekeeperState,
    /// `pg_control`.
    ControlFile,
    /// A `CheckpointState`.
    Checkpoint,
    /// What ingest remembers.
    IngestState,
    /// An encoded delta.
    Delta,
    /// A key.
    Key,
    /// The name of a file in the data directory.
    DataPath,
    /// `pg_logical/replorigin_checkpoint`, and the values kept of origins.
    ReplicationOrigins,
    /// A relation map's record.
    RelationMap,
    /// The header of a WAL page.
    WalPageHeader,
    /// A meta file of the cache.
    CacheMeta,
    /// `control.shm`.
    CacheControl,
}

impl Format {
    const ALL: [Format; 15] = [
        Format::Manifest,
        Format::LayerParts,
        Format::Layer,
        Format::SafekeeperState,
        Format::ControlFile,
        Format::Checkpoint,
        Format::IngestState,
        Format::Delta,
        Format::Key,
        Format::DataPath,
        Format::ReplicationOrigins,
        Format::RelationMap,
        Format::WalPageHeader,
        Format::CacheMeta,
        Format::CacheControl,
    ];
}

/// Reads the input as a file.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let format = Format::ALL[usize::from(input.u8()) % Format::ALL.len()];
    let is_repaired = input.u8() & 1 == 0;
    let mut file = input.rest().to_vec();
    if is_repaired {
        repair(format, &mut file);
    }
    read(format, &file, is_repaired);
}

/// A seed: a file.
pub fn seed(format: Format, file: &[u8]) -> Vec<u8> {
    [&[format as u8, 0], file].concat()
}

fn read(format: Format, file: &[u8], is_repaired: bool) {
    match format {
        Format::Manifest => round_trip(file, Manifest::decode, Manifest::encode),
        Format::LayerParts => layer::read_parts(file),
        Format::Layer => layer::read_whole(file),
        Format::SafekeeperState => round_trip(file, StateFile::decode, StateFile::encode),
        Format::ControlFile => round_trip(file, ControlFile::parse, ControlFile::to_bytes),
        Format::Checkpoint => round_trip(file, CheckpointState::decode, CheckpointState::encode),
        Format::IngestState => {
            if let Ok(ingest) = Ingest::restore(&PG15, file) {
                let state = ingest.state();
                assert_eq!(Ingest::restore(&PG15, &state).expect("its own state").state(), state);
            }
        }
        Format::Delta => round_trip(file, |raw| Delta::decode(raw.to_vec().into()), |delta| delta.encode().to_vec()),
        Format::Key => round_trip(file, Key::decode, |key| key.encode().to_vec()),
        Format::DataPath => {
            let path = String::from_utf8_lossy(file);
            assert!(DataPath::parse(&path, &PG15).is_none_or(|meaning| meaning.to_path(&PG15) == path));
        }
        Format::ReplicationOrigins => {
            round_trip(file, replorigin::parse_file, |origins| replorigin::write_file(origins));
            round_trip(file, OriginState::decode, |state| state.encode());
            round_trip(file, FullPageWrites::decode, |state| state.encode());
        }
        Format::RelationMap => _ = relmap::parse(rmgr::XLOG_RELMAP_UPDATE, file),
        Format::WalPageHeader => shared::read_wal_page_header(file),
        Format::CacheMeta => shared::read_meta(file, is_repaired),
        Format::CacheControl => shared::read_control(file, is_repaired),
    }
}

fn round_trip<T: PartialEq + Debug, E: Debug>(
    file: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(file) {
        assert_eq!(decode(&encode(&value)).expect("what was encoded is understood"), value);
    }
}

/// Puts right what would refuse the file before its contents are looked at.
fn repair(format: Format, file: &mut Vec<u8>) {
    match format {
        Format::Manifest => {
            put(file, 0, b"QUIREMAN\x01\0\0\0");
            close(file);
        }
        Format::SafekeeperState => {
            put(file, 0, b"QUIRESKB\x01\0\0\0\0\0\0\0");
            let crc = crc32c::crc32c(&file[16..]);
            put(file, 12, &crc.to_le_bytes());
        }
        Format::ControlFile => {
            put(file, 8, &PG15.control_version.to_le_bytes());
            file.resize(file.len().max(292), 0);
            let crc = crc32c::crc32c(&file[..288]);
            put(file, 288, &crc.to_le_bytes());
        }
        Format::ReplicationOrigins => {
            put(file, 0, &0x1257_DADE_u32.to_le_bytes());
            close(file);
        }
        Format::WalPageHeader => put(file, 0, &PG15.wal_page_magic.to_le_bytes()),
        _ => {}
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Lets the file end in the checksum of all before, in place of its last four bytes or behind the first twelve.
fn close(file: &mut Vec<u8>) {
    file.truncate(file.len().saturating_sub(4).max(file.len().min(12)));
    let mut closed = Writer::new();
    closed.bytes(file).u32(crc32c::crc32c(file));
    *file = closed.into_vec();
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_layers::image_policy::ImageSettings;
    use quire_layers::manifest::Origin;
    use quire_types::{BranchKey, Lsn, ShardId};

    #[test]
    fn a_seed_is_not_changed_by_repair() {
        let origin = Origin {
            branch: BranchKey::default(),
            shard: ShardId::UNSHARDED,
            start: Lsn(16 << 20),
            segment_bytes: 16 << 20,
            postgres_version: 15,
        };
        let origins = replorigin::write_file(&[(3, Lsn(5))]);
        let manifest = Manifest::new(origin, ImageSettings::default()).encode();
        for (format, file) in [(Format::Manifest, manifest), (Format::ReplicationOrigins, origins)] {
            let mut repaired = file.clone();
            repair(format, &mut repaired);
            assert_eq!(repaired, file, "{format:?}");
        }
    }

    #[test]
    fn formats_are_numbered_in_order() {
        assert!((0..).zip(Format::ALL).all(|(number, format)| format as u8 == number));
    }
}
