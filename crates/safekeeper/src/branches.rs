//! All branches of a safekeeper, and the data directory they lie in.

use crate::branch::Branch;
use crate::error::{BranchError, SafekeeperError};
use crate::log::LogContext;
use crate::metrics::Metrics;
use crate::state_file::STATE_FILE;
use nix::fcntl::{Flock, FlockArg};
use quire_files::sync_folder_of;
use quire_protocol::quorum::LogIdentity;
use quire_types::{NodeId, TimelineKey};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file that is locked while a safekeeper runs, and names it.
const LOCK_FILE: &str = "safekeeper.lock";

/// The branches, by name.
#[derive(Debug)]
pub(crate) struct Branches {
    data_dir: PathBuf,
    context: LogContext,
    metrics: Arc<Metrics>,
    open: Mutex<BTreeMap<TimelineKey, Arc<Branch>>>,
    _lock: Flock<File>,
}

impl Branches {
    /// Takes the data directory, creating it if there is none, and opens every branch in it. One that cannot be opened is refused
    /// to everybody; the others are served.
    pub fn open(data_dir: &Path, context: LogContext, metrics: Arc<Metrics>) -> Result<Branches, SafekeeperError> {
        fs::create_dir_all(data_dir).map_err(SafekeeperError::file(data_dir))?;
        let lock = lock_data_dir(data_dir, context.node)?;
        let mut open = BTreeMap::new();
        for (key, path) in branch_folders(data_dir)? {
            let branch = Branch::open(key, &path, context.clone(), metrics.clone());
            let published = branch.published();
            match &published.unusable {
                None => tracing::info!(branch = %key, ?published, "opened"),
                Some(reason) => tracing::error!(branch = %key, reason, "cannot be opened"),
            }
            open.insert(key, Arc::new(branch));
        }
        Ok(Branches { data_dir: data_dir.to_owned(), context, metrics, open: Mutex::new(open), _lock: lock })
    }

    /// The branch, if it has a log here.
    pub fn get(&self, key: TimelineKey) -> Option<Arc<Branch>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Every branch, in order.
    pub fn all(&self) -> Vec<Arc<Branch>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The branch, created if it has no log here; whether its identity is this one is for the caller to see.
    pub fn get_or_create(&self, key: TimelineKey, identity: LogIdentity) -> Result<Arc<Branch>, BranchError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(branch) = open.get(&key) {
            return Ok(branch.clone());
        }
        let path = self.folder_of(key);
        fs::create_dir_all(&path)?;
        let branch = Branch::create(key, &path, identity, self.context.clone(), self.metrics.clone())?;
        sync_folder_of(&path)?;
        sync_folder_of(&self.data_dir.join(key.project.to_string()))?;
        tracing::info!(branch = %key, ?identity, "created");
        let branch = Arc::new(branch);
        open.insert(key, branch.clone());
        Ok(branch)
    }

    fn folder_of(&self, key: TimelineKey) -> PathBuf {
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

/// The folders that hold a branch. One without a state file is what a crash left of a creation that nobody was told of.
fn branch_folders(data_dir: &Path) -> Result<Vec<(TimelineKey, PathBuf)>, SafekeeperError> {
    let mut found = Vec::new();
    for (project, project_path) in named_folders(data_dir)? {
        for (branch, path) in named_folders(&project_path)? {
            if path.join(STATE_FILE).exists() {
                found.push((TimelineKey { project, branch }, path));
            }
        }
    }
    Ok(found)
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
