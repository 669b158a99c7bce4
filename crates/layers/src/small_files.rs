//! Files that PostgreSQL keeps outside WAL: replication slots, snapshots of logical decoding, statistics, free space
//! maps.
//!
//! A compute sends such a file whole when PostgreSQL has flushed it, and is answered once it is durable here. Only the
//! newest version is kept. Nothing of this is in the log, so each file is a file of its own, published as everything is
//! ([`quire_files`]).
//!
//! Invariants:
//! - a file is the old or the new one, whole, after a crash at any moment;
//! - once a term has fenced the files, no lower term writes any: a term that lists them after fencing sees the last
//!   word of all computes before;
//! - whatever the log lacked when a term fenced the files, no compute before will send it any more: up to there it is
//!   *settled*;
//! - within a term the writes take effect in the order of their sequence numbers, however late one of them arrives over
//!   a connection that its sender has given up. The last number need not be durable: no connection outlives the
//!   process.

use crate::error::StorageError;
use crate::objects::{LocalFolder, Objects};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_files::{ASIDE_SUFFIX, Durability};
use quire_protocol::page::{FileVersion, MAX_KEYS, SMALL_FILE_BYTES_MAX, SmallFile};
use quire_types::{CodecError, Lsn, Reader, Term, Writer};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory in a shard's directory.
const FOLDER: &str = "files";
/// Holds the term that fenced the files. Names of small files have a slash, so none is called so.
const TERM_FILE: &str = "term";
/// Stands for the slash in names on disk; no name has one of its own.
const SEPARATOR: char = '%';
const NAME_BYTES_MAX: usize = 200;

const FILE_MAGIC: [u8; 8] = *b"QUIREFIL";
const TERM_MAGIC: [u8; 8] = *b"QUIRETRM";
const FILE_VERSION: u32 = 1;
/// Version 1 did not say what is settled.
const TERM_VERSION: u32 = 2;
/// Bytes of a file's frame: magic, version, LSN, two lengths, checksum.
const FRAME_BYTES: u64 = 8 + 4 + 8 + 4 + 4 + 4;

/// Why a small file was not kept or given.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A newer compute writes the files.
    #[error("the files were fenced by term {fence}, and term {term} is older")]
    Fenced {
        /// Who fenced them.
        fence: Term,
        /// Who came too late.
        term: Term,
    },
    /// A compute has to fence the files before it writes any.
    #[error("term {0} has not fenced the files")]
    NotFenced(Term),
    /// No term can be that far ahead; nothing was fenced.
    #[error("term {term} cannot be, after term {fence}")]
    TermOutOfReach {
        /// Who fenced the files last.
        fence: Term,
        /// Who wants to.
        term: Term,
    },
    /// A name that no small file can have.
    #[error("no small file can be called {0:?}")]
    Name(String),
    /// Longer than a small file can be.
    #[error("{0} is too long for a small file")]
    TooLong(String),
    /// The disk failed, or a file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Small files in the order of their names, as many as fit into an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listed {
    /// The files.
    pub files: Vec<SmallFile>,
    /// Whether there are more after them.
    pub more: bool,
}

/// The small files of one shard of a branch.
#[derive(Debug)]
pub struct SmallFiles {
    objects: Arc<dyn Objects>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: FileVersion,
    settled: Lsn,
    /// Names, and bytes on disk.
    files: BTreeMap<String, u64>,
    /// Set by a write whose outcome is not known; then nothing more is written. After any other failure the old file is
    /// whole, and a disk that was full may have room the next time.
    failed: Option<String>,
}

impl SmallFiles {
    /// Opens those in a shard's directory.
    pub fn open_in(shard: &Path) -> Result<SmallFiles, StorageError> {
        let dir = shard.join(FOLDER);
        quire_files::create_folder(&dir)?;
        SmallFiles::open(Arc::new(LocalFolder::open(&dir)?))
    }

    /// Opens those that a shard keeps apart from its layers.
    pub fn open(objects: Arc<dyn Objects>) -> Result<SmallFiles, StorageError> {
        let files = found_in(objects.as_ref())?;
        let Fence { term, settled } = load_fence(objects.as_ref())?;
        let last = FileVersion { term, sequence: 0 };
        Ok(SmallFiles { objects, state: Mutex::new(State { last, settled, files, failed: None }) })
    }

    /// Up to where no compute before the one that fenced the files can have more to send; invalid if nothing is known.
    pub fn settled(&self) -> Lsn {
        self.state().settled
    }

    /// Refuses the writes of all lower terms from now on, durably. `ingested` is how far the log is taken in; if the
    /// term is new, everything before is settled.
    pub fn fence(&self, term: Term, ingested: Lsn) -> Result<(), FileError> {
        let mut state = self.state();
        let fence = state.last.term;
        if term < fence {
            return Err(FileError::Fenced { fence, term });
        }
        if !term.is_in_reach_of(fence) {
            return Err(FileError::TermOutOfReach { fence, term });
        }
        if term > fence {
            let settled = ingested.max(state.settled);
            state.write(|| self.objects.replace(TERM_FILE, &encode_fence(Fence { term, settled })))?;
            state.last = FileVersion { term, sequence: 0 };
            state.settled = settled;
        }
        Ok(())
    }

    /// Does what only the term that fenced the files may do. No other can fence them before it is done.
    pub fn in_term<T>(&self, term: Term, work: impl FnOnce() -> T) -> Result<T, FileError> {
        let state = self.state();
        state.check_term(term)?;
        Ok(work())
    }

    /// Keeps a file, durably.
    pub fn put(&self, version: FileVersion, file: &SmallFile) -> Result<(), FileError> {
        if file.content.len() > SMALL_FILE_BYTES_MAX {
            return Err(FileError::TooLong(file.name.clone()));
        }
        let object = object_name(&file.name)?;
        let mut state = self.state();
        if state.admits(version)? {
            let raw = encode(file);
            state.write(|| self.objects.replace(&object, &raw))?;
            state.files.insert(file.name.clone(), raw.len() as u64);
            state.last = version;
        }
        Ok(())
    }

    /// Forgets a file, durably.
    pub fn remove(&self, version: FileVersion, name: &str) -> Result<(), FileError> {
        let object = object_name(name)?;
        let mut state = self.state();
        if state.admits(version)? {
            if state.files.contains_key(name) {
                state.write(|| self.objects.remove(&object, Durability::Machine))?;
                state.files.remove(name);
            }
            state.last = version;
        }
        Ok(())
    }

    /// Files whose names begin with `prefix` and come after `after`.
    pub fn list(&self, prefix: &str, after: &str) -> Result<Listed, FileError> {
        let state = self.state();
        let mut listed = Listed::default();
        let mut room = SMALL_FILE_BYTES_MAX as u64 + FRAME_BYTES + NAME_BYTES_MAX as u64;
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let names = state.files.range::<str, _>((from, Bound::Unbounded));
        for (name, bytes) in names.take_while(|(name, _)| name.starts_with(prefix)) {
            if *bytes > room || listed.files.len() == MAX_KEYS {
                listed.more = true;
                break;
            }
            room -= bytes;
            listed.files.push(self.load(name)?);
        }
        Ok(listed)
    }

    /// Shows all files whose names begin with `prefix`.
    pub fn each(&self, prefix: &str, mut show: impl FnMut(&SmallFile)) -> Result<(), FileError> {
        let mut after = String::new();
        loop {
            let Listed { files, more } = self.list(prefix, &after)?;
            files.iter().for_each(&mut show);
            match files.last() {
                Some(last) if more => after.clone_from(&last.name),
                _ => return Ok(()),
            }
        }
    }

    fn load(&self, name: &str) -> Result<SmallFile, FileError> {
        let object = object_name(name)?;
        let path = self.objects.locate(&object);
        let gone = || StorageError::io("read", &path)(std::io::ErrorKind::NotFound.into());
        let raw = self.objects.read(&object)?.ok_or_else(gone)?;
        let file = decode(&raw).map_err(StorageError::malformed(&path, 0))?;
        if file.name == name { Ok(file) } else { Err(misnamed(path, &file.name).into()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Whether a write is to take effect; one that came late is not.
    fn admits(&self, version: FileVersion) -> Result<bool, FileError> {
        self.check_term(version.term)?;
        Ok(version.sequence > self.last.sequence)
    }

    fn check_term(&self, term: Term) -> Result<(), FileError> {
        let fence = self.last.term;
        match term.cmp(&fence) {
            std::cmp::Ordering::Less => Err(FileError::Fenced { fence, term }),
            std::cmp::Ordering::Greater => Err(FileError::NotFenced(term)),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn write(&mut self, write: impl FnOnce() -> Result<(), StorageError>) -> Result<(), StorageError> {
        if let Some(reason) = &self.failed {
            return Err(StorageError::Failed(reason.clone()));
        }
        let written = write();
        if let Err(error @ StorageError::Unsettled { .. }) = &written {
            self.failed = Some(error.to_string());
        }
        written
    }
}

/// The name of a file's object.
fn object_name(name: &str) -> Result<String, FileError> {
    if is_valid(name) { Ok(name.replace('/', &SEPARATOR.to_string())) } else { Err(FileError::Name(name.to_owned())) }
}

fn is_valid(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) && name.contains('/') && !name.ends_with(ASIDE_SUFFIX)
}

/// Names and lengths of the files.
fn found_in(objects: &dyn Objects) -> Result<BTreeMap<String, u64>, StorageError> {
    let files = objects.list()?.into_iter().map(|(object, bytes)| (object.replace(SEPARATOR, "/"), bytes));
    Ok(files.filter(|(name, _)| is_valid(name)).collect())
}

/// What the term file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Fence {
    term: Term,
    settled: Lsn,
}

fn load_fence(objects: &dyn Objects) -> Result<Fence, StorageError> {
    let Some(raw) = objects.read(TERM_FILE)? else { return Ok(Fence::default()) };
    decode_fence(&raw).map_err(StorageError::malformed(&objects.locate(TERM_FILE), 0))
}

fn misnamed(path: PathBuf, name: &str) -> StorageError {
    StorageError::Corrupt { path, offset: 0, reason: format!("it is {name}") }
}

fn encode(file: &SmallFile) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(&FILE_MAGIC).u32(FILE_VERSION).u64(file.lsn.0);
    out.length_prefixed(file.name.as_bytes()).length_prefixed(&file.content);
    sealed(out)
}

fn decode(raw: &[u8]) -> Result<SmallFile, CodecError> {
    let (mut input, version) = unsealed(raw, FILE_MAGIC)?;
    if version != FILE_VERSION {
        return Err(unknown_version(version));
    }
    let lsn = Lsn(input.u64("lsn")?);
    let name = String::from_utf8_lossy(input.length_prefixed("name")?).into_owned();
    let content = Bytes::copy_from_slice(input.length_prefixed("content")?);
    input.finish()?;
    Ok(SmallFile { name, lsn, content })
}

fn encode_fence(fence: Fence) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(&TERM_MAGIC).u32(TERM_VERSION).u64(fence.term.0).u64(fence.settled.0);
    sealed(out)
}

fn decode_fence(raw: &[u8]) -> Result<Fence, CodecError> {
    let (mut input, version) = unsealed(raw, TERM_MAGIC)?;
    let term = Term(input.u64("term")?);
    let settled = match version {
        1 => Lsn::INVALID,
        TERM_VERSION => Lsn(input.u64("settled")?),
        other => return Err(unknown_version(other)),
    };
    input.finish()?;
    Ok(Fence { term, settled })
}

/// The bytes with their checksum behind them.
fn sealed(mut out: Writer) -> Vec<u8> {
    let checksum = crc32c::crc32c(out.as_slice());
    out.u32(checksum);
    out.into_vec()
}

/// What follows the head of a file whose checksum is right, and the format's version.
fn unsealed(raw: &[u8], magic: [u8; 8]) -> Result<(Reader<'_>, u32), CodecError> {
    let short = CodecError::Truncated { field: "checksum", needed: 4, left: raw.len() };
    let (checked, checksum) = raw.split_last_chunk::<4>().ok_or(short)?;
    let mut input = Reader::new(checked);
    let found: [u8; 8] = input.array("magic")?;
    if found != magic {
        return Err(CodecError::Invalid { field: "magic", value: u64::from_le_bytes(found) });
    }
    if crc32c::crc32c(checked) != u32::from_le_bytes(*checksum) {
        return Err(CodecError::Invalid { field: "checksum", value: u32::from_le_bytes(*checksum).into() });
    }
    let version = input.u32("version")?;
    Ok((input, version))
}

fn unknown_version(version: u32) -> CodecError {
    CodecError::Invalid { field: "version", value: version.into() }
}

#[cfg(test)]
mod tests;
