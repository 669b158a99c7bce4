//! One supervisor per directory: the process that holds the lock on `run/up.pid`.
//!
//! The kernel drops the lock with the process, so a pid in an unlocked file means nothing, however it got there.

use crate::home::Home;
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

/// Held by the supervisor for as long as it lives.
pub struct UpLock {
    _file: Flock<File>,
}

/// Whether a supervisor runs.
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Process(u32),
}

impl UpLock {
    /// Takes the lock and writes down this process; none if another process holds it.
    pub fn take(home: &Home) -> Result<Option<UpLock>> {
        let Ok(mut file) = Flock::lock(open(home)?, FlockArg::LockExclusiveNonblock) else {
            return Ok(None);
        };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Some(UpLock { _file: file }))
    }
}

/// Who holds the lock of this directory.
pub fn holder(home: &Home) -> Result<Holder> {
    if !home.pid_file().exists() {
        return Ok(Holder::Nobody);
    }
    match Flock::lock(open(home)?, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(Holder::Nobody),
        Err((file, _)) => Ok(Holder::Process(read_pid(file)?)),
    }
}

/// The pid is written just after the lock is taken, so a reader may have to wait for it for a moment.
fn read_pid(mut file: File) -> Result<u32> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        match text.trim().parse() {
            Ok(pid) => return Ok(pid),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error).context("run/up.pid is locked but names no process"),
        }
    }
}

fn open(home: &Home) -> Result<File> {
    let path = home.pid_file();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(&path).with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_gets_nothing_until_the_first_is_gone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let home = Home::create(folder.path()).expect("created");
        assert!(matches!(holder(&home).expect("asked"), Holder::Nobody));
        let first = UpLock::take(&home).expect("taken");
        assert!(first.is_some());
        assert!(UpLock::take(&home).expect("refused").is_none());
        assert!(matches!(holder(&home).expect("asked"), Holder::Process(pid) if pid == std::process::id()));
        drop(first);
        assert!(matches!(holder(&home).expect("asked"), Holder::Nobody));
        assert!(UpLock::take(&home).expect("taken").is_some());
    }
}
