//! What PostgreSQL keeps outside WAL, kept in storage.
//!
//! `pg_create_logical_replication_slot` writes `pg_replslot/<slot>/state` and flushes it. The shim sees the flush and
//! asks the agent to keep the *area* the file is in: whatever in it differs from what storage has is sent, and the
//! flush returns once storage has it durably. Renamed and removed files need no word of their own, since PostgreSQL
//! flushes their directory. A cold start puts all of it back before PostgreSQL runs.
//!
//! - `area`: which files these are;
//! - [`statistics`]: what a clean shutdown leaves in `pg_stat`, of use only with the state of the database it belongs
//!   to;
//! - [`free_space`]: free space maps, which no backend waits for;
//! - [`settings`]: the settings of `ALTER SYSTEM` that a server was ready with;
//! - [`retention`]: the WAL that replication slots still need.
//!
//! Invariants:
//! - a flush that PostgreSQL was told to be done is in storage; without storage it waits, as on a disk that hangs,
//!   since PostgreSQL answers an error there with a crash;
//! - only the compute of the newest term writes (`FenceFiles`), one write at a time and in order;
//! - no WAL that a slot needs is given up, as of the slot's state in storage: that is the one that will be put back.

mod area;
pub mod free_space;
pub mod retention;
pub mod settings;
pub mod statistics;

use crate::owner::Owner;
use crate::page_client::{PageClient, PageError};
use crate::{Error, descriptors, place};
use area::KnownContent;
use bytes::Bytes;
use parking_lot::Mutex;
use quire_cache::{ComputeDir, FileArea};
use quire_protocol::page::{FileVersion, SmallFile};
use quire_types::{Lsn, Term};
use quire_wal::replication_slot;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// What the names of files in the data directory begin with.
const PGDATA: &str = "pgdata/";

/// The files of one session.
#[derive(Debug)]
pub struct KeptFiles {
    dir: ComputeDir,
    client: PageClient,
    term: Term,
    /// Held over each write, so that there is one at a time.
    state: Arc<tokio::sync::Mutex<State>>,
    /// From where on the slots in storage need WAL.
    needed: Mutex<Option<Lsn>>,
}

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    /// What storage has, by the path in the data directory.
    known: BTreeMap<String, KnownContent>,
}

impl KeptFiles {
    /// Fences off all computes before, and gets what they left.
    pub async fn open(
        dir: ComputeDir,
        client: PageClient,
        term: Term,
        patience: Duration,
    ) -> Result<(KeptFiles, Vec<SmallFile>), Error> {
        client.fence_files(term, patience).await?;
        let found = list(&client, PGDATA, patience).await?;
        let known = found.iter().filter_map(known_as).collect();
        let needed = Mutex::new(wal_needed(&known));
        let state = Arc::new(tokio::sync::Mutex::new(State { sequence: 0, known }));
        Ok((KeptFiles { dir, client, term, state, needed }, found))
    }

    /// All small files in storage whose names begin with `prefix`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<SmallFile>, Error> {
        Ok(list(&self.client, prefix, PATIENCE).await?)
    }

    /// Puts back what storage has of all areas.
    pub fn restore(&self, files: &[SmallFile], owner: Owner) -> Result<(), Error> {
        for file in files {
            if let Some(path) = data_path(&file.name).filter(|path| FileArea::of_path(path.as_bytes()).is_some()) {
                write(&self.dir.pgdata(), path, &file.content, owner)?;
            }
        }
        Ok(())
    }

    /// Returns once storage has the files of `area` as they are in the data directory when this is called.
    pub async fn keep(&self, area: FileArea) -> Result<(), Error> {
        let state = self.state.clone().lock_owned().await;
        let (mut state, changes) = self.look(state, area).await?;
        for (path, content) in changes.changed {
            let known = KnownContent::of(area, &content);
            self.set_retrying(&mut state, &path, Some(content)).await?;
            state.known.insert(path, known);
        }
        for path in changes.gone {
            self.set_retrying(&mut state, &path, None).await?;
            state.known.remove(&path);
        }
        if area == FileArea::Slots {
            *self.needed.lock() = wal_needed(&state.known);
        }
        Ok(())
    }

    async fn look(
        &self,
        state: OwnedMutexGuard<State>,
        area: FileArea,
    ) -> Result<(OwnedMutexGuard<State>, area::Changes), Error> {
        let pgdata = self.dir.pgdata();
        let look = move || loop {
            match area::changes(&pgdata, area, &state.known) {
                // An error would be answered with a crash.
                Err(error) if descriptors::is_lack_in(&error) => std::thread::sleep(RETRY_PAUSE),
                outcome => return outcome.map(|changes| (state, changes)),
            }
        };
        tokio::task::spawn_blocking(look).await.map_err(|_| Error::ShuttingDown)?
    }

    /// Keeps a file, or forgets it, however long storage takes.
    async fn set_retrying(&self, state: &mut State, path: &str, content: Option<Bytes>) -> Result<(), Error> {
        let file = (format!("{PGDATA}{path}"), content.map(|content| (Lsn::INVALID, content)));
        loop {
            match self.attempt(state, file.clone()).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, path, "PostgreSQL waits for storage to keep a file");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Tries once to keep a file that no backend waits for, or to forget it.
    pub async fn try_set(&self, name: String, content: Option<(Lsn, Bytes)>) -> Result<(), PageError> {
        let mut state = self.state.lock().await;
        self.attempt(&mut state, (name, content)).await
    }

    async fn attempt(
        &self,
        state: &mut State,
        (name, content): (String, Option<(Lsn, Bytes)>),
    ) -> Result<(), PageError> {
        state.sequence += 1;
        let version = FileVersion { term: self.term, sequence: state.sequence };
        match content {
            Some((lsn, content)) => self.client.put_file(version, SmallFile { name, lsn, content }, PATIENCE).await,
            None => self.client.remove_file(version, &name, PATIENCE).await,
        }
    }

    /// The oldest LSN from which a slot in storage needs WAL, if there is a slot.
    pub fn wal_needed(&self) -> Option<Lsn> {
        *self.needed.lock()
    }
}

async fn list(client: &PageClient, prefix: &str, patience: Duration) -> Result<Vec<SmallFile>, PageError> {
    let mut found: Vec<SmallFile> = Vec::new();
    loop {
        let after = found.last().map_or("", |file| file.name.as_str());
        let (files, more) = client.get_files(prefix, after, patience).await?;
        found.extend(files);
        if !more {
            return Ok(found);
        }
    }
}

fn known_as(file: &SmallFile) -> Option<(String, KnownContent)> {
    let path = data_path(&file.name)?;
    Some((path.to_owned(), KnownContent::of(FileArea::of_path(path.as_bytes())?, &file.content)))
}

/// The path in the data directory that a name stands for; none if it leads elsewhere.
fn data_path(name: &str) -> Option<&str> {
    let path = name.strip_prefix(PGDATA)?;
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    (inside && !path.is_empty()).then_some(path)
}

/// Writes a file below `pgdata`, and the directories it is in.
fn write(pgdata: &Path, path: &str, content: &[u8], owner: Owner) -> Result<(), Error> {
    let path = PathBuf::from(path);
    place::folders_below(pgdata, path.parent().unwrap_or(Path::new("")), owner)?;
    place::file(&pgdata.join(path), content, owner)
}

/// From where on the slots among the files need WAL. One that cannot be read may need all there is.
fn wal_needed(known: &BTreeMap<String, KnownContent>) -> Option<Lsn> {
    let slots = known.iter().filter(|(path, _)| FileArea::of_path(path.as_bytes()) == Some(FileArea::Slots));
    slots.filter_map(|(path, known)| slot_needs(path, known)).min()
}

fn slot_needs(path: &str, known: &KnownContent) -> Option<Lsn> {
    let KnownContent::Content(content) = known else { return Some(Lsn::INVALID) };
    replication_slot::restart_lsn(content).unwrap_or_else(|error| {
        tracing::warn!(%error, path, "all WAL is kept for a replication slot that cannot be read");
        Some(Lsn::INVALID)
    })
}

#[cfg(test)]
mod tests;
