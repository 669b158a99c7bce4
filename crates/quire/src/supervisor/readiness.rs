//! Waiting until roles that were just started answer.

use super::group::Deaths;
use crate::home::Home;
use crate::roles::Role;
use anyhow::{Context, Result, bail};
use quire_api::compute::Phase;
use quire_api::{STATUS, compute, pageserver, safekeeper};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
const STORAGE_TIMEOUT: Duration = Duration::from_secs(60);
const COMPUTE_TIMEOUT: Duration = Duration::from_secs(300);

/// A role that dies so often while it starts will not do better the next time.
const DEATHS_MAX: u32 = 3;

/// A PostgreSQL that failed as often will not start before something is changed.
const FAILED_STARTS_MAX: u32 = 2;

/// Lines of a role's log shown when it does not start.
const LOG_LINES: usize = 5;

/// The roles that are waited for.
pub struct Readiness {
    home: Home,
    roles: Vec<(Role, Deaths)>,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new(home: &Home) -> Readiness {
        Readiness { home: home.clone(), roles: Vec::new() }
    }

    /// Adds a role that was started.
    pub fn expect(&mut self, role: Role, deaths: Deaths) {
        self.roles.push((role, deaths));
    }

    /// Waits until all storage answers.
    pub async fn wait_for_storage(&self) -> Result<()> {
        self.wait(Some(STORAGE_TIMEOUT)).await
    }

    /// Waits until all computes accept connections. A PostgreSQL that fails again is not waited for.
    pub async fn wait_for_computes(&self) -> Result<()> {
        self.wait(Some(COMPUTE_TIMEOUT)).await
    }

    /// Waits until all computes accept connections, however long it takes and whatever happens meanwhile.
    pub async fn wait_patiently_for_computes(&self) -> Result<()> {
        self.wait(None).await
    }

    /// Without a `timeout` it gives up on nothing.
    async fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let begun = Instant::now();
        for (role, deaths) in &self.roles {
            loop {
                match (ask(role).await?, timeout) {
                    (Start::Done, _) => break,
                    (Start::Failing(reason), Some(_)) => {
                        return Err(Trouble(format!("{} does not start: {reason}", role.name())).into());
                    }
                    (Start::UnderWay, Some(timeout)) => self.give_up(role, deaths, begun, timeout)?,
                    (Start::UnderWay | Start::Failing(_), None) => {}
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Fails if a role that is not ready is not to be waited for any longer.
    fn give_up(&self, role: &Role, deaths: &Deaths, begun: Instant, timeout: Duration) -> Result<()> {
        if deaths.count() >= DEATHS_MAX {
            bail!("{} keeps exiting; {}", role.name(), self.end_of_log(role));
        }
        if begun.elapsed() > timeout {
            let (name, seconds, log) = (role.name(), timeout.as_secs(), self.end_of_log(role));
            return Err(Trouble(format!("{name} is not ready after {seconds} s; {log}")).into());
        }
        Ok(())
    }

    fn end_of_log(&self, role: &Role) -> String {
        let path = self.home.log_file(&role.name());
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
        lines.reverse();
        format!("the end of {}:\n{}", path.display(), lines.join("\n"))
    }
}

/// Why a role is not ready that may still become so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

/// How far a role's start is.
enum Start {
    /// It is not ready yet.
    UnderWay,
    /// PostgreSQL has failed again and again, and why.
    Failing(String),
    /// Storage answers, PostgreSQL accepts connections.
    Done,
}

impl Start {
    fn of_storage<T>(answer: Result<T>) -> Start {
        if answer.is_ok() { Start::Done } else { Start::UnderWay }
    }

    fn of_compute(answer: Result<compute::Status>) -> Start {
        match answer {
            Ok(status) if status.state == Phase::Running => Start::Done,
            Ok(compute::Status { error: Some(error), failed_starts, .. }) if failed_starts >= FAILED_STARTS_MAX => {
                Start::Failing(error)
            }
            _ => Start::UnderWay,
        }
    }
}

/// Asks a role.
async fn ask(role: &Role) -> Result<Start> {
    let (role, peer) = (role.clone(), role.peer());
    let asked = tokio::task::spawn_blocking(move || match role {
        Role::Safekeeper(_) => Start::of_storage(peer.get::<safekeeper::Status>(STATUS)),
        Role::Pageserver(_) => Start::of_storage(peer.get::<pageserver::Status>(STATUS)),
        Role::Compute(_) => Start::of_compute(peer.get(STATUS)),
    });
    asked.await.context("asking a role failed")
}
