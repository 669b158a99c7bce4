//! A page that differs from storage's, put aside so that the difference can be looked into when all else has moved on.
//!
//! A directory for each, outside the cache, byte for byte as `docs/format-evidence.md` has it:
//!
//! ```text
//! evidence/main/base_5_16384-7-0_1A2B3C8/
//!     about.json      what differs, where, and when that was seen
//!     cache.page      what PostgreSQL wrote
//!     storage.page    what storage makes of the log; not there if it makes nothing
//!     chain.bin       what storage made it of
//! ```
//!
//! [`Evidence::replay`] does offline what storage did.

mod replay;

pub use quire_protocol::chain_file::{ChainFile, ChainFileError};
pub use replay::{Difference, Replay, Step};

use crate::cached_files::{CachedPage, Page};
use crate::difference::{NOTHING, first_difference};
use crate::session::Session;
use crate::{Config, Error};
use quire_files::{Durability, publish};
use quire_protocol::page_version::{PageVersion, encoded_bytes};
use quire_types::{Key, Lsn, PAGE_SIZE};
use quire_wal::page;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many cases are kept; later ones are counted and logged, but not put aside.
const CASES_MAX: usize = 20;
/// How far the chain is followed behind the image that storage read the page from: the fault may be older than that
/// image.
const OLDER_CHAINS_MAX: usize = 8;
const CHAIN_BYTES_MAX: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

const ABOUT_FILE: &str = "about.json";
const CACHE_FILE: &str = "cache.page";
const STORAGE_FILE: &str = "storage.page";
const CHAIN_FILE: &str = "chain.bin";
/// Ends the name of a directory that is not complete yet.
const ASIDE_SUFFIX: &str = ".new";

/// A page that differs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    /// Where it is in the cache.
    pub page: &'a CachedPage,
    /// The LSN that storage was asked for.
    pub version: Lsn,
    /// The cache's copy.
    pub ours: &'a Page,
    /// Storage's; none if it has no such page, or cannot make it.
    pub theirs: Option<&'a [u8]>,
    /// Why storage cannot make it, if it says so.
    pub refusal: Option<&'a str>,
}

/// What `about.json` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// The branch.
    pub branch: String,
    /// The relation's file, below the data directory.
    pub relation: String,
    /// The block in the fork.
    pub block: u32,
    /// LSN in the cache's copy.
    pub cache_lsn: Lsn,
    /// LSN in storage's copy; none if storage has no such page.
    pub storage_lsn: Option<Lsn>,
    /// The LSN that storage was asked for.
    pub asked_lsn: Lsn,
    /// Why storage could not make the page, if it said so.
    pub refusal: Option<String>,
    /// Offset of the first byte that differs under the masks.
    pub first_difference: Option<usize>,
    /// Where the compute had started.
    pub start_lsn: Lsn,
    /// When it was seen, in seconds since 1970.
    pub seen_at: u64,
    /// The version of Quire.
    pub version: String,
}

/// A case with all that is needed to look into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// What differs, where, and when that was seen.
    pub about: About,
    /// What PostgreSQL wrote.
    pub cache: Box<[u8; PAGE_SIZE]>,
    /// What storage had made of the log, if anything.
    pub storage: Option<Box<[u8; PAGE_SIZE]>>,
    /// What it had made it of.
    pub chain: ChainFile,
}

/// Why a directory cannot be read as evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// A page has another length.
    #[error("{0} has {1} bytes, which is no page")]
    NoPage(PathBuf, usize),
    /// `about.json` is something else.
    #[error("{0}: {1}")]
    About(PathBuf, serde_json::Error),
    /// `chain.bin` is damaged.
    #[error("{0}: {1}")]
    Chain(PathBuf, ChainFileError),
}

/// Puts a case aside, with its chain from storage; where, or none if there are enough already or it cannot be done.
pub(crate) async fn put_aside(config: &Config, session: &Session, case: &Case<'_>) -> Option<PathBuf> {
    let root = config.evidence_dir();
    if count(&root) >= CASES_MAX {
        return None;
    }
    let evidence = Evidence::gather(config, session, case).await;
    let kept = evidence.keep(&root);
    kept.inspect_err(|error| tracing::warn!(%error, "a page that differs cannot be put aside")).ok()
}

/// How many cases are kept in a directory.
pub fn count(root: &Path) -> usize {
    let names =
        fs::read_dir(root).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.ends_with(ASIDE_SUFFIX)).count()
}

impl Evidence {
    async fn gather(config: &Config, session: &Session, case: &Case<'_>) -> Evidence {
        let key = case.page.key();
        let versions = history(session, key, case.version).await;
        Evidence {
            about: About::new(config, session, case),
            cache: case.ours.clone(),
            storage: case.theirs.and_then(|theirs| Some(Box::new(<[u8; PAGE_SIZE]>::try_from(theirs).ok()?))),
            chain: ChainFile { key, versions },
        }
    }

    /// The name of its directory: relation, block and LSN.
    fn name(&self) -> String {
        format!("{}-{}-{}", self.about.relation, self.about.block, self.about.cache_lsn).replace('/', "_")
    }

    /// Writes the directory, whole or not at all; where it is. One that is there is left as it is.
    pub fn keep(&self, root: &Path) -> Result<PathBuf, Error> {
        let folder = root.join(self.name());
        if folder.exists() {
            return Ok(folder);
        }
        let aside = root.join(self.name() + ASIDE_SUFFIX);
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::file("remove", &aside)(error)),
            _ => create_closed(&aside)?,
        }
        let put = |name: &str, content: &[u8]| publish(&aside.join(name), content, Durability::Machine);
        put(ABOUT_FILE, &serde_json::to_vec_pretty(&self.about).unwrap_or_default())?;
        put(CACHE_FILE, &self.cache[..])?;
        if let Some(storage) = &self.storage {
            put(STORAGE_FILE, &storage[..])?;
        }
        put(CHAIN_FILE, &self.chain.encode())?;
        fs::rename(&aside, &folder).map_err(Error::file("rename", &aside))?;
        Ok(folder)
    }

    /// Reads a directory back.
    pub fn load(folder: &Path) -> Result<Evidence, EvidenceError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| EvidenceError::Read(path, error))
        };
        let about = serde_json::from_slice(&read(ABOUT_FILE)?);
        let chain = ChainFile::decode(&read(CHAIN_FILE)?.into());
        let storage = match read(STORAGE_FILE) {
            Err(EvidenceError::Read(_, error)) if error.kind() == ErrorKind::NotFound => None,
            other => Some(to_page(folder.join(STORAGE_FILE), &other?)?),
        };
        Ok(Evidence {
            about: about.map_err(|error| EvidenceError::About(folder.join(ABOUT_FILE), error))?,
            cache: to_page(folder.join(CACHE_FILE), &read(CACHE_FILE)?)?,
            storage,
            chain: chain.map_err(|error| EvidenceError::Chain(folder.join(CHAIN_FILE), error))?,
        })
    }
}

/// Makes a directory, and those above it that are missing, for this user alone: pages are data.
fn create_closed(folder: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::file("create", folder))
}

fn to_page(path: PathBuf, raw: &[u8]) -> Result<Box<[u8; PAGE_SIZE]>, EvidenceError> {
    let page = <[u8; PAGE_SIZE]>::try_from(raw);
    page.map(Box::new).map_err(|_| EvidenceError::NoPage(path, raw.len()))
}

impl About {
    fn new(config: &Config, session: &Session, case: &Case<'_>) -> About {
        About {
            branch: config.branch_name.clone(),
            relation: case.page.relation(),
            block: case.page.block,
            cache_lsn: page::lsn(&case.ours[..]),
            storage_lsn: case.theirs.map(page::lsn),
            asked_lsn: case.version,
            refusal: case.refusal.map(str::to_owned),
            first_difference: first_difference(case.page.key(), case.ours, case.theirs.unwrap_or(&NOTHING)),
            start_lsn: session.start,
            seen_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The versions of a page up to an LSN, oldest first: those that storage reads it from, and some of what was before its
/// image.
async fn history(session: &Session, key: Key, upto: Lsn) -> Vec<PageVersion> {
    let mut versions = Vec::new();
    let mut next = upto;
    for _ in 0..=OLDER_CHAINS_MAX {
        let mut older = match session.client.get_chain(next, key, PATIENCE).await {
            Ok(chain) => chain,
            Err(error) => {
                tracing::debug!(%error, %key, lsn = %next, "the chain ends here");
                break;
            }
        };
        let Some((lsn, kind)) = older.first().map(|oldest| (oldest.lsn, oldest.kind)) else { break };
        if !versions.is_empty() && encoded_bytes(&versions) + encoded_bytes(&older) > CHAIN_BYTES_MAX {
            break;
        }
        older.append(&mut versions);
        versions = older;
        next = Lsn(lsn.0.saturating_sub(1));
        if !kind.is_image() || !next.is_valid() {
            break;
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, RelTag};
    use std::os::unix::fs::PermissionsExt;

    fn evidence(lsn: u64) -> Evidence {
        let rel = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
        let mut cache = Box::new([0; PAGE_SIZE]);
        page::init(&mut cache[..], 0);
        Evidence {
            about: About {
                branch: "main".into(),
                relation: "base/5/16384".into(),
                block: 7,
                cache_lsn: Lsn(lsn),
                storage_lsn: None,
                asked_lsn: Lsn(lsn),
                refusal: Some("no".into()),
                first_difference: Some(12),
                start_lsn: Lsn(1),
                seen_at: 1,
                version: "0".into(),
            },
            cache,
            storage: None,
            chain: ChainFile { key: Key::RelBlock { rel, block: 7 }, versions: Vec::new() },
        }
    }

    #[test]
    fn evidence_reads_back_whether_or_not_storage_has_the_page() {
        let root = tempfile::tempdir().expect("a folder");
        let none = evidence(0x1A2B3C8);
        let folder = none.keep(root.path()).expect("kept");
        assert!(folder.ends_with("base_5_16384-7-0_1A2B3C8"), "{folder:?}");
        assert_eq!(Evidence::load(&folder).expect("readable"), none);
        let mode = fs::metadata(&folder).expect("examined").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "pages are data");
        let some = Evidence { storage: Some(Box::new([3; PAGE_SIZE])), ..evidence(9) };
        assert_eq!(Evidence::load(&some.keep(root.path()).expect("kept")).expect("readable"), some);
        fs::create_dir(root.path().join("half.new")).expect("made");
        assert_eq!(count(root.path()), 2, "what was not finished does not count");
    }

    #[test]
    fn a_cut_page_or_a_missing_file_is_an_error() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = evidence(9).keep(root.path()).expect("kept");
        fs::write(folder.join(CACHE_FILE), [0; 100]).expect("written");
        assert!(matches!(Evidence::load(&folder), Err(EvidenceError::NoPage(_, 100))));
        fs::remove_file(folder.join(CHAIN_FILE)).expect("removed");
        assert!(matches!(Evidence::load(&folder), Err(EvidenceError::Read(..))));
    }
}
