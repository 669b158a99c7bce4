//! What a branch's shard consists of: which layers, how far they reach, and the branch's settings.
//!
//! The manifest is one small file, published anew at every change; what it does not name does not exist. Its generation
//! counts the publications. Layers are in *runs*, oldest first: the layers of a run have no key in common, so a read
//! visits at most one layer of each run.

use crate::error::StorageError;
use crate::image_policy::ImageSettings;
use crate::objects::Objects;
use bytes::Bytes;
use quire_types::{BranchId, BranchKey, CodecError, Lsn, ProjectId, Reader, ShardId, Writer};

/// The manifest's name among a shard's objects.
const NAME: &str = "manifest";

const MAGIC: [u8; 8] = *b"QUIREMAN";
const VERSION: u32 = 1;

/// More runs or layers than a manifest can have.
const COUNT_MAX: usize = 1 << 20;

/// One layer of a run.
pub type LayerId = u64;

/// Layers without a key in common, in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunEntry {
    /// 0 for a flushed memtable, one more than the runs merged into it for a compacted one.
    pub tier: u8,
    /// Its layers.
    pub layers: Vec<LayerId>,
}

/// What was imported, and never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The branch.
    pub branch: BranchKey,
    /// The shard.
    pub shard: ShardId,
    /// Ingest began here.
    pub start: Lsn,
    /// Bytes in a WAL segment.
    pub segment_bytes: u32,
    /// PostgreSQL's major version.
    pub postgres_version: u32,
}

/// A shard of a branch, as it is after a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// How many manifests were published before this one.
    pub generation: u64,
    /// What was imported.
    pub origin: Origin,
    /// Everything before is in the layers.
    pub durable: Lsn,
    /// Ingest's own state at `durable`; empty if nothing was ingested yet.
    pub ingest_state: Bytes,
    /// When to make images.
    pub settings: ImageSettings,
    /// The number of the next layer.
    pub next_layer: LayerId,
    /// The runs, oldest first.
    pub runs: Vec<RunEntry>,
}

impl Manifest {
    /// The manifest of a branch that was just imported.
    pub fn new(origin: Origin, settings: ImageSettings) -> Manifest {
        let (durable, ingest_state) = (origin.start, Bytes::new());
        Manifest { generation: 0, origin, durable, ingest_state, settings, next_layer: 1, runs: Vec::new() }
    }

    /// Reads the manifest among a shard's objects; none if there is none.
    pub fn load(objects: &dyn Objects) -> Result<Option<Manifest>, StorageError> {
        let raw = objects.read(NAME)?;
        let decoded = raw.map(|raw| Manifest::decode(&raw)).transpose();
        decoded.map_err(|error| StorageError::malformed(&objects.locate(NAME), 0)(error))
    }

    /// Publishes this manifest as the next generation.
    pub fn publish(&mut self, objects: &dyn Objects) -> Result<(), StorageError> {
        self.generation += 1;
        objects.replace(NAME, &self.encode())
    }

    /// The bytes, ending in the checksum of all before it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.bytes(&MAGIC).u32(VERSION).u64(self.generation);
        write_origin(&mut out, &self.origin);
        out.u64(self.durable.0).u32(self.settings.max_deltas).u64(self.settings.max_bytes);
        out.u64(self.next_layer).length_prefixed(&self.ingest_state);
        out.u32(self.runs.len() as u32);
        for run in &self.runs {
            out.u8(run.tier).u32(run.layers.len() as u32);
            run.layers.iter().for_each(|layer| {
                out.u64(*layer);
            });
        }
        out.u32(crc32c::crc32c(out.as_slice()));
        out.into_vec()
    }

    /// Reads back what [`Manifest::encode`] wrote.
    pub fn decode(raw: &[u8]) -> Result<Manifest, CodecError> {
        let short = CodecError::Truncated { field: "manifest", needed: 4, left: raw.len() };
        let (checked, checksum) = raw.split_last_chunk::<4>().ok_or(short)?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*checksum) {
            return Err(CodecError::Invalid { field: "checksum", value: u32::from_le_bytes(*checksum).into() });
        }
        let mut input = Reader::new(checked);
        check_magic(&mut input)?;
        let generation = input.u64("generation")?;
        let origin = read_origin(&mut input)?;
        let durable = Lsn(input.u64("durable")?);
        let settings = ImageSettings { max_deltas: input.u32("max deltas")?, max_bytes: input.u64("max bytes")? };
        let next_layer = input.u64("next layer")?;
        let ingest_state = Bytes::copy_from_slice(input.length_prefixed("ingest state")?);
        let count = read_count(&mut input, "runs")?;
        let runs = (0..count).map(|_| read_run(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Manifest { generation, origin, durable, ingest_state, settings, next_layer, runs })
    }
}

fn check_magic(input: &mut Reader<'_>) -> Result<(), CodecError> {
    let magic: [u8; 8] = input.array("magic")?;
    if magic != MAGIC {
        return Err(CodecError::Invalid { field: "magic", value: u64::from_le_bytes(magic) });
    }
    match input.u32("version")? {
        VERSION => Ok(()),
        other => Err(CodecError::Invalid { field: "version", value: other.into() }),
    }
}

fn write_origin(out: &mut Writer, origin: &Origin) {
    out.bytes(&origin.branch.project.0).bytes(&origin.branch.branch.0);
    out.u8(origin.shard.number).u8(origin.shard.count);
    out.u64(origin.start.0).u32(origin.segment_bytes).u32(origin.postgres_version);
}

fn read_origin(input: &mut Reader<'_>) -> Result<Origin, CodecError> {
    Ok(Origin {
        branch: BranchKey { project: ProjectId(input.array("project")?), branch: BranchId(input.array("branch")?) },
        shard: ShardId { number: input.u8("shard number")?, count: input.u8("shard count")? },
        start: Lsn(input.u64("start")?),
        segment_bytes: input.u32("segment bytes")?,
        postgres_version: input.u32("postgres version")?,
    })
}

fn read_run(input: &mut Reader<'_>) -> Result<RunEntry, CodecError> {
    let tier = input.u8("tier")?;
    let count = read_count(input, "layers")?;
    let layers = (0..count).map(|_| input.u64("layer")).collect::<Result<_, _>>()?;
    Ok(RunEntry { tier, layers })
}

fn read_count(input: &mut Reader<'_>, field: &'static str) -> Result<usize, CodecError> {
    let count = input.u32(field)? as usize;
    if count > COUNT_MAX { Err(CodecError::Invalid { field, value: count as u64 }) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::LocalFolder;

    fn manifest() -> Manifest {
        let origin = Origin {
            branch: BranchKey::default(),
            shard: ShardId::UNSHARDED,
            start: Lsn(16 << 20),
            segment_bytes: 16 << 20,
            postgres_version: 15,
        };
        let runs = vec![RunEntry { tier: 1, layers: vec![4, 5] }, RunEntry { tier: 0, layers: vec![6] }];
        let ingest_state = Bytes::from_static(b"state");
        Manifest { next_layer: 7, runs, ingest_state, ..Manifest::new(origin, ImageSettings::default()) }
    }

    #[test]
    fn it_reads_back_and_every_damage_is_an_error() {
        let raw = manifest().encode();
        assert_eq!(Manifest::decode(&raw), Ok(manifest()));
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x40;
            assert!(Manifest::decode(&damaged).is_err(), "byte {position}");
            assert!(Manifest::decode(&raw[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn publishing_counts_generations_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let objects = LocalFolder::new(dir.path());
        assert_eq!(Manifest::load(&objects).unwrap(), None);
        let mut current = manifest();
        current.publish(&objects).unwrap();
        current.publish(&objects).unwrap();
        assert_eq!(Manifest::load(&objects).unwrap().map(|manifest| manifest.generation), Some(2));
        objects.replace(NAME, b"nonsense").unwrap();
        let error = Manifest::load(&objects).unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { ref path, .. } if path.ends_with(NAME)), "{error}");
    }
}
