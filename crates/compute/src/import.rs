//! Reading a cleanly stopped data directory into the values a branch starts with.
//!
//! A branch is born from `initdb`, or from a server that was shut down: its relation pages, SLRU pages, relation maps
//! and small files become values as of [`import_start`], where the branch's log begins. What is left out, and why:
//!
//! - free space maps: advisory, rebuilt by PostgreSQL;
//! - pages of zeroes: a block inside a relation's size without a version is one;
//! - the contents of unlogged relations: a compute starts them from their init fork, as after a crash;
//! - temporary files, statistics, replication slots: not part of what the log describes.
//!
//! Memory is bounded by the largest directory's list of files and by one batch. All I/O is blocking.

#[cfg(test)]
mod tests;

use crate::tablespaces::FOLDER;
use bytes::Bytes;
use quire_types::{
    CodecError, DataFileName, Fork, Key, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES, Slru,
    size,
};
use quire_wal::effects::FullPageWrites;
use quire_wal::effects::replorigin::{self, OriginState};
use quire_wal::postgres_version::{PostgresVersion, PostgresVersions, SUPPORTED, is_valid_segment_bytes};
use quire_wal::{ControlFile, ControlFileError, DataPath, DatabaseState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The most values in one batch; with pages, 1 MiB.
const BATCH_VALUES_MAX: usize = 128;

/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// A page that is not imported.
const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// The most a shutdown checkpoint's record can take: header, data, and the long page header it may be split by.
const CHECKPOINT_RECORD_BYTES_MAX: u64 = 24 + 2 + 88 + 40 + 7;

/// A data directory that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `pg_control` cannot be used.
    #[error(transparent)]
    ControlFile(#[from] ControlFileError),
    /// The directory is of another major version.
    #[error("the data directory is of PostgreSQL {found}, which is not supported (supported: {supported})")]
    Version {
        /// What `PG_VERSION` says.
        found: String,
        /// What is supported.
        supported: PostgresVersions,
    },
    /// `PG_VERSION` and `pg_control` are of two major versions.
    #[error("the data directory is of PostgreSQL {directory} by PG_VERSION, and of {control} by pg_control")]
    Versions {
        /// By `PG_VERSION`.
        directory: u32,
        /// By `pg_control`.
        control: u32,
    },
    /// The server runs, or has crashed.
    #[error("the server must be shut down cleanly first (pg_control says {0:?})")]
    NotShutDown(DatabaseState),
    /// Pages have checksums, whose hint-bit images would come back as WAL.
    #[error("data checksums are not supported: disable them with pg_checksums --disable")]
    Checksums,
    /// The server was built with other sizes than the defaults.
    #[error("servers built with a {what} of {found} are not supported")]
    Build {
        /// Which size.
        what: &'static str,
        /// What it is.
        found: u32,
    },
    /// A file does not consist of whole pages.
    #[error("{path} has {bytes} bytes, which are not whole pages")]
    PartialPage {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A file is not what PostgreSQL writes.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        source: CodecError,
    },
    /// A file has more blocks than PostgreSQL can address.
    #[error("{path} is too large")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file changed while it was read.
    #[error("{path} became shorter while it was read")]
    Shrunk {
        /// The file.
        path: PathBuf,
    },
}

/// Where a branch's log begins that starts from this data directory: a segment boundary past the end of its WAL, so
/// that every page is older, and nothing has to be kept of the WAL before.
pub fn import_start(control: &ControlFile) -> Lsn {
    let segment_bytes = u64::from(control.layout.wal_segment_bytes);
    let end = control.checkpoint.add(CHECKPOINT_RECORD_BYTES_MAX);
    Lsn((end.segment_number(segment_bytes) + 1).saturating_mul(segment_bytes))
}

/// The values of a data directory, in batches.
#[derive(Debug)]
pub struct Import {
    data_dir: PathBuf,
    control: ControlFile,
    steps: VecDeque<Step>,
    pages: Option<Pages>,
}

/// What remains to be read.
#[derive(Debug)]
enum Step {
    /// Values that are at hand.
    Values(Vec<(Key, Bytes)>),
    /// A directory of relations: `global`, or a database's.
    Relations { path: String },
    /// A directory of SLRU segments.
    Segments(Slru),
    /// The pages of one file, with the key of its first.
    Pages { path: PathBuf, first: Key, blocks: u32 },
}

impl Import {
    /// Checks that the data directory can be imported.
    pub fn open(data_dir: &Path) -> Result<Import, ImportError> {
        let version = find_version(data_dir)?;
        let control_bytes = read(&data_dir.join(DataFileName::ControlFile.to_string()))?;
        let control = ControlFile::parse(&control_bytes)?;
        if control.version != version {
            return Err(ImportError::Versions { directory: version.major, control: control.version.major });
        }
        check_control(&control)?;
        let mut steps = VecDeque::from([Step::Values(control_values(&control, control_bytes.into()))]);
        steps.push_back(Step::Relations { path: "global".to_owned() });
        steps.extend(database_steps(data_dir, "base", version)?);
        for (tablespace, location) in tablespaces(data_dir)? {
            steps.push_back(Step::Values(vec![(Key::Tablespace { tablespace }, location)]));
            let folder = format!("{FOLDER}/{tablespace}/{}", version.tablespace_directory);
            steps.extend(database_steps(data_dir, &folder, version)?);
        }
        steps.extend(Slru::ALL.map(Step::Segments));
        steps.push_back(Step::Values(two_phase_values(data_dir)?));
        steps.push_back(Step::Values(origin_values(data_dir)?));
        Ok(Import { data_dir: data_dir.to_owned(), control, steps, pages: None })
    }

    /// The directory's `pg_control`.
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// The version of PostgreSQL that the directory is of.
    pub fn version(&self) -> &'static PostgresVersion {
        self.control.version
    }

    /// Where the branch's log begins: [`import_start`].
    pub fn start(&self) -> Lsn {
        import_start(&self.control)
    }

    fn fill(&mut self, batch: &mut Vec<(Key, Bytes)>) -> Result<(), ImportError> {
        while batch.len() < BATCH_VALUES_MAX {
            if let Some(pages) = &mut self.pages {
                match pages.next_page()? {
                    Some(entry) => batch.push(entry),
                    None => self.pages = None,
                }
                continue;
            }
            let Some(step) = self.steps.pop_front() else { break };
            self.take(step, batch)?;
        }
        Ok(())
    }

    fn take(&mut self, step: Step, batch: &mut Vec<(Key, Bytes)>) -> Result<(), ImportError> {
        match step {
            Step::Values(mut values) => {
                let later = values.split_off(values.len().min(BATCH_VALUES_MAX));
                batch.append(&mut values);
                if !later.is_empty() {
                    self.steps.push_front(Step::Values(later));
                }
            }
            Step::Relations { path } => {
                let steps = relation_steps(&self.data_dir, &path, self.version())?;
                prepend(&mut self.steps, steps);
            }
            Step::Segments(slru) => prepend(&mut self.steps, segment_steps(&self.data_dir, slru)?),
            Step::Pages { path, first, blocks } => self.pages = Some(Pages::open(path, first, blocks)?),
        }
        Ok(())
    }
}

impl Iterator for Import {
    type Item = Result<Vec<(Key, Bytes)>, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Vec::new();
        match self.fill(&mut batch) {
            Ok(()) if batch.is_empty() => None,
            Ok(()) => Some(Ok(batch)),
            Err(error) => {
                self.steps.clear();
                self.pages = None;
                Some(Err(error))
            }
        }
    }
}

fn prepend(steps: &mut VecDeque<Step>, first: Vec<Step>) {
    first.into_iter().rev().for_each(|step| steps.push_front(step));
}

/// The version in `PG_VERSION`.
fn find_version(data_dir: &Path) -> Result<&'static PostgresVersion, ImportError> {
    let raw = read(&data_dir.join("PG_VERSION"))?;
    let text = String::from_utf8_lossy(&raw);
    let found = text.trim();
    let version = found.parse().ok().and_then(|major| SUPPORTED.of_major(major));
    version.ok_or_else(|| ImportError::Version { found: found.to_owned(), supported: SUPPORTED })
}

/// The databases that have a directory in `folder`.
fn database_steps(data_dir: &Path, folder: &str, version: &PostgresVersion) -> Result<Vec<Step>, ImportError> {
    let mut steps = Vec::new();
    for name in names(&data_dir.join(folder))? {
        let path = format!("{folder}/{name}");
        if let Some(DataPath::Database { tablespace, database }) = DataPath::parse(&path, version) {
            steps.push(Step::Values(vec![(Key::Database { tablespace, database }, Bytes::new())]));
            steps.push(Step::Relations { path });
        }
    }
    Ok(steps)
}

/// The tablespaces of users, with their locations; the location of one in the data directory is empty.
fn tablespaces(data_dir: &Path) -> Result<Vec<(u32, Bytes)>, ImportError> {
    let mut found = Vec::new();
    for name in names(&data_dir.join(FOLDER))? {
        let Ok(tablespace) = name.parse() else { continue };
        let path = data_dir.join(FOLDER).join(&name);
        let location = if path.is_symlink() {
            fs::read_link(&path).map_err(failed(&path))?.into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        found.push((tablespace, location.into()));
    }
    Ok(found)
}

fn check_control(control: &ControlFile) -> Result<(), ImportError> {
    if control.state != DatabaseState::ShutDown {
        return Err(ImportError::NotShutDown(control.state));
    }
    if control.layout.data_checksum_version != 0 {
        return Err(ImportError::Checksums);
    }
    if control.layout.block_bytes as usize != PAGE_SIZE {
        return Err(ImportError::Build { what: "block size", found: control.layout.block_bytes });
    }
    if control.layout.relation_segment_blocks != RELATION_SEGMENT_BLOCKS {
        return Err(ImportError::Build { what: "segment size", found: control.layout.relation_segment_blocks });
    }
    if !is_valid_segment_bytes(control.layout.wal_segment_bytes.into()) {
        return Err(ImportError::Build { what: "WAL segment size", found: control.layout.wal_segment_bytes });
    }
    Ok(())
}

fn control_values(control: &ControlFile, file: Bytes) -> Vec<(Key, Bytes)> {
    let checkpoint = control.checkpoint_copy;
    let full_page_writes = FullPageWrites { on: checkpoint.full_page_writes, since: import_start(control) };
    vec![
        (Key::ControlFile, file),
        (Key::Checkpoint, checkpoint.encode().into()),
        (Key::FullPageWrites, full_page_writes.encode().into()),
    ]
}

fn two_phase_values(data_dir: &Path) -> Result<Vec<(Key, Bytes)>, ImportError> {
    let mut values = Vec::new();
    for name in names(&data_dir.join("pg_twophase"))? {
        let path = format!("pg_twophase/{name}");
        if let Some(DataFileName::TwoPhase { xid }) = DataFileName::parse_exact(path.as_bytes()) {
            values.push((Key::TwoPhase { xid }, read(&data_dir.join(path))?.into()));
        }
    }
    Ok(values)
}

/// Progress of replication origins, which a server that has none leaves no file of.
fn origin_values(data_dir: &Path) -> Result<Vec<(Key, Bytes)>, ImportError> {
    let path = data_dir.join("pg_logical/replorigin_checkpoint");
    let raw = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(failed(&path))?,
    };
    let origins = replorigin::parse_file(&raw).map_err(|source| ImportError::Damaged { path, source })?;
    let value = |remote_lsn| OriginState { remote_lsn, local_lsn: Lsn::INVALID }.encode().into();
    Ok(origins.into_iter().map(|(origin, remote)| (Key::ReplicationOrigin { origin }, value(remote))).collect())
}

/// The relation forks of a directory with the sizes of their segment files, and its relation map.
fn relation_steps(data_dir: &Path, directory: &str, version: &PostgresVersion) -> Result<Vec<Step>, ImportError> {
    let mut forks: BTreeMap<RelTag, BTreeMap<u32, u32>> = BTreeMap::new();
    let mut steps = Vec::new();
    for name in names(&data_dir.join(directory))? {
        let path = format!("{directory}/{name}");
        match DataPath::parse(&path, version) {
            Some(DataPath::Relation { rel, segment }) if rel.fork != Fork::FreeSpaceMap => {
                forks.entry(rel).or_default().insert(segment, file_pages(&data_dir.join(path))?);
            }
            Some(DataPath::RelationMap { tablespace, database }) => {
                let file = read(&data_dir.join(path))?.into();
                steps.push(Step::Values(vec![(Key::RelMap { tablespace, database }, file)]));
            }
            _ => {}
        }
    }
    let unlogged: BTreeSet<RelTag> = forks.keys().filter(|rel| rel.fork == Fork::Init).copied().collect();
    for (rel, segments) in forks {
        if rel.fork == Fork::Init || !unlogged.contains(&rel.with_fork(Fork::Init)) {
            steps.extend(fork_steps(data_dir, rel, &segments, version)?);
        }
    }
    Ok(steps)
}

/// A fork ends with its first segment file that is not full; files after it are left over from a truncation.
fn fork_steps(
    data_dir: &Path,
    rel: RelTag,
    segments: &BTreeMap<u32, u32>,
    version: &PostgresVersion,
) -> Result<Vec<Step>, ImportError> {
    let mut steps = Vec::new();
    let mut size: u32 = 0;
    for segment in 0.. {
        let path = data_dir.join(DataPath::Relation { rel, segment }.to_path(version));
        let blocks = segments.get(&segment).copied().unwrap_or(0);
        let first = Key::RelBlock { rel, block: size };
        size = size.checked_add(blocks).ok_or_else(|| ImportError::TooLarge { path: path.clone() })?;
        if blocks > 0 {
            steps.push(Step::Pages { path, first, blocks });
        }
        if blocks < RELATION_SEGMENT_BLOCKS {
            break;
        }
    }
    let size = Bytes::copy_from_slice(&size::encode(size));
    steps.insert(0, Step::Values(vec![(Key::RelSize { rel }, size)]));
    Ok(steps)
}

fn segment_steps(data_dir: &Path, slru: Slru) -> Result<Vec<Step>, ImportError> {
    let mut steps = Vec::new();
    for name in names(&data_dir.join(slru.directory()))? {
        let path = format!("{}/{name}", slru.directory());
        if let Some(DataFileName::Slru { slru, segment, .. }) = DataFileName::parse_exact(path.as_bytes()) {
            let path = data_dir.join(path);
            let blocks = file_pages(&path)?;
            let first = segment.checked_mul(SLRU_SEGMENT_PAGES);
            let page = first.ok_or_else(|| ImportError::TooLarge { path: path.clone() })?;
            let size = Bytes::copy_from_slice(&size::encode(blocks));
            steps.push(Step::Values(vec![(Key::SlruSegment { slru, segment }, size)]));
            steps.push(Step::Pages { path, first: Key::SlruBlock { slru, page }, blocks });
        }
    }
    Ok(steps)
}

/// The pages of one file.
#[derive(Debug)]
struct Pages {
    path: PathBuf,
    file: BufReader<File>,
    next: Key,
    left: u32,
}

impl Pages {
    fn open(path: PathBuf, first: Key, blocks: u32) -> Result<Pages, ImportError> {
        let file = File::open(&path).map_err(failed(&path))?;
        Ok(Pages { path, file: BufReader::with_capacity(READ_BYTES, file), next: first, left: blocks })
    }

    /// The next page that is not all zeroes.
    fn next_page(&mut self) -> Result<Option<(Key, Bytes)>, ImportError> {
        let mut page = vec![0; PAGE_SIZE];
        while self.left > 0 {
            self.read_page(&mut page)?;
            let key = self.next;
            self.left -= 1;
            if self.left > 0 {
                self.next = next_block(key);
            }
            if page != ZEROES {
                return Ok(Some((key, page.into())));
            }
        }
        Ok(None)
    }

    fn read_page(&mut self, page: &mut [u8]) -> Result<(), ImportError> {
        self.file.read_exact(page).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ImportError::Shrunk { path: self.path.clone() },
            _ => ImportError::Io { path: self.path.clone(), source },
        })
    }
}

/// The key after one in the same file.
fn next_block(key: Key) -> Key {
    match key {
        Key::RelBlock { rel, block } => Key::RelBlock { rel, block: block + 1 },
        Key::SlruBlock { slru, page } => Key::SlruBlock { slru, page: page + 1 },
        other => other,
    }
}

/// How many pages a file has.
fn file_pages(path: &Path) -> Result<u32, ImportError> {
    let bytes = fs::metadata(path).map_err(failed(path))?.len();
    if !bytes.is_multiple_of(PAGE_SIZE as u64) {
        return Err(ImportError::PartialPage { path: path.to_owned(), bytes });
    }
    u32::try_from(bytes / PAGE_SIZE as u64).map_err(|_| ImportError::TooLarge { path: path.to_owned() })
}

/// The names in a directory, sorted. Names that are no text are none of PostgreSQL's.
fn names(directory: &Path) -> Result<Vec<String>, ImportError> {
    let entries = fs::read_dir(directory).map_err(failed(directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(directory))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    fs::read(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Io { path: path.clone(), source }
}
