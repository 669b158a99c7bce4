//! All branches of a safekeeper, and the data directory they are in.

use crate::branch_log::BranchLog;
use crate::error::{BranchLogError, SafekeeperError};
use crate::flush_mark::FlushMark;
use crate::log::{LogContext, sync_names};
use crate::metrics::Metrics;
use crate::state_file::STATE_FILE;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use quire_protocol::quorum::LogIdentity;
use quire_types::{BranchKey, NodeId};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that is locked while a safekeeper runs, and names it.
const LOCK_FILE: &str = "safekeeper.lock";

/// The branches, by name.
#[derive(Debug)]
pub(crate) struct BranchLogs {
    data_dir: PathBuf,
    context: LogContext,
    metrics: Arc<Metrics>,
    open: Mutex<BTreeMap<BranchKey, Arc<BranchLog>>>,
    _lock: Flock<File>,
}

impl BranchLogs {
    /// Takes the data directory, creating it if there is none, and opens every branch in it. One that cannot be opened
    /// is refused to everybody; the others are served.
    pub fn open(data_dir: &Path, context: LogContext, metrics: Arc<Metrics>) -> Result<BranchLogs, SafekeeperError> {
        fs::create_dir_all(data_dir).map_err(SafekeeperError::file(data_dir))?;
        let lock = lock_data_dir(data_dir, context.node)?;
        let mut open = BTreeMap::new();
        for (key, path) in branch_folders(data_dir)? {
            let log = BranchLog::open(key, &path, context.clone(), metrics.clone());
            let published = log.published();
            match &published.unusable {
                None => tracing::info!(branch = %key, ?published, "opened"),
                Some(reason) => tracing::error!(branch = %key, %reason, "cannot be opened"),
            }
            open.insert(key, Arc::new(log));
        }
        Ok(BranchLogs { data_dir: data_dir.to_owned(), context, metrics, open: Mutex::new(open), _lock: lock })
    }

    /// The branch, if it has a log here.
    pub fn get(&self, key: BranchKey) -> Option<Arc<BranchLog>> {
        self.open.lock().get(&key).cloned()
    }

    /// Every branch, in order.
    pub fn all(&self) -> Vec<Arc<BranchLog>> {
        self.open.lock().values().cloned().collect()
    }

    /// The branch, created if it has no log here; whether its identity is this one is for the caller to see.
    pub fn get_or_create(&self, key: BranchKey, identity: LogIdentity) -> Result<Arc<BranchLog>, BranchLogError> {
        let mut open = self.open.lock();
        if let Some(log) = open.get(&key) {
            return Ok(log.clone());
        }
        let path = self.folder_of(key);
        fs::create_dir_all(&path)?;
        let log = BranchLog::create(key, &path, identity, self.context.clone(), self.metrics.clone())?;
        sync_names(&path)?;
        tracing::info!(branch = %key, ?identity, "created");
        let log = Arc::new(log);
        open.insert(key, log.clone());
        Ok(log)
    }

    fn folder_of(&self, key: BranchKey) -> PathBuf {
        self.data_dir.join(key.project.to_string()).join(key.branch.to_string())
    }
}

fn lock_data_dir(data_dir: &Path, node: NodeId) -> Result<Flock<File>, SafekeeperError> {
    let path = data_dir.join(LOCK_FILE);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = options.map_err(SafekeeperError::file(&path))?;
    let mut lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| SafekeeperError::Locked(data_dir.to_owned()))?;
    let mut owner = String::new();
    lock.read_to_string(&mut owner).map_err(SafekeeperError::file(&path))?;
    if owner.is_empty() {
        writeln!(lock, "{node}").and_then(|()| lock.sync_all()).map_err(SafekeeperError::file(&path))?;
    } else if owner.trim() != node.to_string() {
        return Err(SafekeeperError::OtherNode { path: data_dir.to_owned(), owner: owner.trim().to_owned(), node });
    }
    Ok(lock)
}

/// The directories that hold a branch. One that has neither a state nor anything that comes after it is what a crash
/// left of a creation that was not acknowledged.
fn branch_folders(data_dir: &Path) -> Result<Vec<(BranchKey, PathBuf)>, SafekeeperError> {
    let mut found = Vec::new();
    for (project, project_path) in named_folders(data_dir)? {
        for (branch, path) in named_folders(&project_path)? {
            if holds_a_log(&path).map_err(SafekeeperError::file(&path))? {
                found.push((BranchKey { project, branch }, path));
            }
        }
    }
    Ok(found)
}

/// Whether a log was ever created in the directory, even if its state is lost: who lost it must not take it for an
/// empty one.
fn holds_a_log(branch: &Path) -> io::Result<bool> {
    if !branch.is_dir() {
        return Ok(false);
    }
    let is_segment = |name: &str| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut names = fs::read_dir(branch)?;
    let has_one = names.try_fold(false, |found, entry| {
        let name = entry?.file_name();
        io::Result::Ok(found || name.to_str().is_some_and(|name| name == STATE_FILE || is_segment(name)))
    });
    // A mark that is damaged was once written.
    Ok(has_one? || !FlushMark::read(branch).is_ok_and(|mark| !mark.is_valid()))
}

fn named_folders<Name: std::str::FromStr>(folder: &Path) -> Result<Vec<(Name, PathBuf)>, SafekeeperError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(SafekeeperError::file(folder))? {
        let entry = entry.map_err(SafekeeperError::file(folder))?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(name.map(|name| (name, entry.path())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment_thread::SegmentThread;
    use quire_files::fault;
    use quire_types::{BranchId, Lsn, ProjectId};

    const KEY: BranchKey = BranchKey { project: ProjectId([1; 16]), branch: BranchId([2; 16]) };

    fn open(data_dir: &Path) -> Result<BranchLogs, SafekeeperError> {
        let context = LogContext { node: NodeId(1), segment_thread: SegmentThread::start()?, keep_segments: 0 };
        BranchLogs::open(data_dir, context, Arc::new(Metrics::new()))
    }

    fn created() -> tempfile::TempDir {
        let data_dir = tempfile::tempdir().expect("folder");
        let identity = LogIdentity { system_id: 7, segment_bytes: 1 << 20, start: Lsn(3 << 20) };
        open(data_dir.path()).expect("opened").get_or_create(KEY, identity).expect("created");
        data_dir
    }

    #[test]
    fn what_a_start_finds_is_made_durable_before_anybody_hears_of_it() {
        let data_dir = created();
        for steps in 0..10 {
            fault::fail_after(Some(steps));
            let opened = open(data_dir.path());
            fault::fail_after(None);
            let Ok(logs) = opened else { continue };
            let unusable = logs.get(KEY).and_then(|log| log.published().unusable);
            if unusable.is_none() {
                // The directory and the three above it; the directory again, once the log was cut; the mark.
                return assert_eq!(steps, 6, "steps that a start needs");
            }
        }
        panic!("it does not open");
    }

    #[test]
    fn a_log_without_its_state_is_refused_and_not_created_again() {
        for left in ["000000010000000000000003", "flushed"] {
            let data_dir = created();
            let logs = open(data_dir.path()).expect("opened");
            let identity = logs.get(KEY).expect("there").identity().expect("open");
            let folder = logs.folder_of(KEY);
            drop(logs);
            fs::write(folder.join("000000010000000000000003"), b"WAL").expect("write");
            for entry in fs::read_dir(&folder).expect("listed").flatten().filter(|entry| entry.file_name() != left) {
                fs::remove_file(entry.path()).expect("removed");
            }
            let logs = open(data_dir.path()).expect("opened");
            let log = logs.get_or_create(KEY, identity).expect("it is known");
            let unusable = log.published().unusable.expect("it cannot be used").to_string();
            assert!(unusable.contains(STATE_FILE), "{unusable}");
            assert!(!folder.join(STATE_FILE).exists());
        }
    }

    #[test]
    fn a_creation_that_was_interrupted_is_begun_anew() {
        let data_dir = created();
        let logs = open(data_dir.path()).expect("opened");
        let (folder, identity) = (logs.folder_of(KEY), logs.get(KEY).expect("there").identity().expect("open"));
        drop(logs);
        fs::rename(folder.join(STATE_FILE), folder.join("state.tmp")).expect("renamed");
        fs::write(folder.join("flushed"), b"").expect("write");
        let logs = open(data_dir.path()).expect("opened");
        assert!(logs.get(KEY).is_none());
        assert!(logs.get_or_create(KEY, identity).expect("created").published().unusable.is_none());
    }
}
