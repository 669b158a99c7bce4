//! The settings of `ALTER SYSTEM` that a server has run with, to go back to when it does not start with newer ones.
//!
//! `ALTER SYSTEM` takes values that the next start fails with, and storage keeps what it wrote. On a disk one would
//! edit the file; here it comes back from storage. So the file that a server became ready with is kept too, and a start
//! that PostgreSQL fails is tried again with that one, then with none. What was left out is put where its owner finds
//! it.

use super::{KeptFiles, PGDATA};
use crate::owner::Owner;
use crate::{Config, Error, place};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_files::{Durability, Staged};
use quire_protocol::page::SmallFile;
use quire_types::Lsn;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What `ALTER SYSTEM` writes, in the data directory.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// The last one that a server was ready with: in storage, and in the compute's directory.
const READY: &str = "postgresql.auto.conf.ready";
/// The one that no server started with, among the files that a user looks at.
const REJECTED: &str = "postgresql.auto.conf.rejected";

/// How long a start waits for storage to take them.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_secs(1);
const ERROR_CHARS_MAX: usize = 600;

/// With which settings of `ALTER SYSTEM` a server is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// As they were last written.
    Current,
    /// As a server was last ready with them.
    Ready,
    /// With none.
    Nothing,
}

/// What storage and the compute's directory have to go back to.
#[derive(Debug, Default)]
pub struct Settings {
    ready: Mutex<Option<Bytes>>,
}

impl Settings {
    /// What is there, from the files of storage or, where storage did not get it, from the compute's directory.
    pub fn find(config: &Config, files: &[SmallFile]) -> Settings {
        let stored = files.iter().find(|file| file.name == stored_name()).map(|file| file.content.clone());
        Settings { ready: Mutex::new(stored.or_else(|| fs::read(config.dir.join(READY)).ok().map(Bytes::from))) }
    }

    fn ready(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.ready.lock()
    }

    /// What to try when PostgreSQL has failed with `choice` over this data directory.
    pub fn after(&self, choice: Choice, pgdata: &Path) -> Option<Choice> {
        let failed = fs::read(pgdata.join(AUTO_CONF)).unwrap_or_default();
        let has_other = self.ready().as_ref().is_some_and(|ready| lines(ready) != lines(&failed));
        match choice {
            Choice::Current if has_other => Some(Choice::Ready),
            Choice::Current | Choice::Ready if !lines(&failed).is_empty() => Some(Choice::Nothing),
            _ => None,
        }
    }

    /// Puts the chosen settings into a data directory that has the current ones, and these aside with the `reason`.
    pub fn choose(&self, config: &Config, owner: Owner, choice: Choice, reason: &str) -> Result<(), Error> {
        let chosen = match choice {
            Choice::Current => return Ok(()),
            Choice::Ready => self.ready().clone().unwrap_or_default(),
            Choice::Nothing => Bytes::new(),
        };
        let path = config.pgdata().join(AUTO_CONF);
        let current = fs::read(&path).unwrap_or_default();
        let note = note(config, &current, &chosen, reason);
        tracing::warn!(note, "PostgreSQL is started without settings of ALTER SYSTEM");
        write(&rejected(config), format!("# {note}\n").as_bytes(), &current, owner)?;
        place::file(&path, &chosen, owner)
    }

    /// Notes that a server is ready with what is in the data directory now: has it kept here and in storage, which is
    /// not waited for for long.
    pub async fn is_ready(&self, config: &Config, owner: Owner, kept: Arc<KeptFiles>) -> Result<(), Error> {
        let content = Bytes::from(fs::read(config.pgdata().join(AUTO_CONF)).unwrap_or_default());
        if self.ready().replace(content.clone()).as_ref() == Some(&content) {
            return Ok(());
        }
        write(&config.dir.join(READY), &[], &content, owner)?;
        let sending = tokio::spawn(async move { send(&kept, content).await });
        // It continues by itself if storage is away.
        let _ = tokio::time::timeout(PATIENCE, sending).await;
        Ok(())
    }
}

async fn send(kept: &KeptFiles, content: Bytes) {
    for _ in 0..ATTEMPTS {
        match kept.try_set(stored_name(), Some((Lsn::INVALID, content.clone()))).await {
            Err(error) if error.may_pass() => tracing::debug!(%error, "storage does not take the settings yet"),
            Err(error) => return tracing::debug!(%error, "storage does not take the settings"),
            Ok(()) => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn stored_name() -> String {
    format!("{PGDATA}{READY}")
}

/// Where settings are put that PostgreSQL did not start with.
pub fn rejected(config: &Config) -> PathBuf {
    config.conf().join(REJECTED)
}

/// What its owner has to know, for as long as the file of rejected settings is there.
pub fn rejected_note(config: &Config) -> Option<String> {
    let text = fs::read(rejected(config)).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().next()?.trim_start_matches(['#', ' ']).to_owned())
}

fn note(config: &Config, current: &[u8], chosen: &[u8], reason: &str) -> String {
    let kept = lines(chosen);
    let left_out: Vec<String> = lines(current).into_iter().filter(|line| !kept.contains(line)).collect();
    let reason: String = reason.chars().filter(|character| !character.is_control()).take(ERROR_CHARS_MAX).collect();
    format!(
        "PostgreSQL did not start with the settings of ALTER SYSTEM ({reason}), so it was started without these: {}. \
        They are in {}: correct and repeat those that are needed, then remove that file",
        left_out.join(", "),
        rejected(config).display()
    )
}

/// The settings in a file, without comments.
fn lines(content: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(content);
    let settings = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    settings.map(str::to_owned).collect()
}

fn write(path: &Path, header: &[u8], content: &[u8], owner: Owner) -> Result<(), Error> {
    let mut staged = Staged::create(path)?;
    staged.set_mode(0o600)?;
    staged.write(header)?;
    staged.write(content)?;
    staged.publish(Durability::Machine)?;
    owner.give(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ready: Option<&'static str>, choice: Choice, current: &str) -> Option<Choice> {
        let pgdata = tempfile::tempdir().expect("a folder");
        fs::write(pgdata.path().join(AUTO_CONF), current).expect("written");
        Settings { ready: Mutex::new(ready.map(Bytes::from)) }.after(choice, pgdata.path())
    }

    #[test]
    fn settings_that_fail_are_followed_by_those_that_were_ready_and_these_by_none() {
        assert_eq!(after(Some("a = 1"), Choice::Current, "a = 2"), Some(Choice::Ready));
        assert_eq!(after(Some("a = 1"), Choice::Ready, "a = 1"), Some(Choice::Nothing));
        assert_eq!(after(Some("a = 1"), Choice::Nothing, ""), None);
        assert_eq!(after(None, Choice::Current, "a = 2"), Some(Choice::Nothing));
    }

    #[test]
    fn the_same_settings_are_not_tried_twice() {
        assert_eq!(after(Some("a = 1"), Choice::Current, "# written\na = 1\n"), Some(Choice::Nothing));
        assert_eq!(after(Some("# written"), Choice::Current, ""), None);
        assert_eq!(after(None, Choice::Current, "# Do not edit\n"), None);
    }
}
