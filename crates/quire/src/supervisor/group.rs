//! Roles that are kept running together and ended together.

use super::child::{Launcher, end};
use crate::roles::{EXIT_FENCED, Role};
use quire_types::Backoff;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The waits before a role that died is started again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A life as long as this makes the failures before it forgotten.
const HEALTHY_LIFE: Duration = Duration::from_secs(30);

/// A number of roles, each in a task that starts it again whenever it dies.
pub struct Group {
    launcher: Launcher,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// How often a role died so far.
#[derive(Clone, Default)]
pub struct Deaths(Arc<AtomicU32>);

impl Deaths {
    /// The count.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Group {
    /// A group without roles.
    pub fn new(launcher: &Launcher) -> Group {
        Group { launcher: launcher.clone(), stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    /// Starts a role and keeps it running.
    pub fn add(&mut self, role: Role) -> Deaths {
        let deaths = Deaths::default();
        let keeper = Keeper { role, launcher: self.launcher.clone(), deaths: deaths.clone() };
        self.tasks.spawn(keeper.run(self.stop.subscribe()));
        deaths
    }

    /// Ends all roles and returns when they are gone.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What to do about a role that ended by itself.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    /// Start it again.
    Restart,
    /// A newer compute was elected: starting this one again would fence that one.
    LeaveDown,
}

fn verdict(status: Option<ExitStatus>) -> Verdict {
    match status.and_then(|status| status.code()) {
        Some(EXIT_FENCED) => Verdict::LeaveDown,
        _ => Verdict::Restart,
    }
}

struct Keeper {
    role: Role,
    launcher: Launcher,
    deaths: Deaths,
}

/// How a life of a role came to its end.
enum Life {
    /// The group was told to stop.
    EndedOnPurpose,
    /// The process exited by itself.
    Exited(ExitStatus),
    /// The process could not be started, or how it ended is not known.
    Unknown,
}

impl Keeper {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut backoff = BACKOFF;
        loop {
            let started = Instant::now();
            let status = match self.live_once(&mut stop).await {
                Life::EndedOnPurpose => return,
                Life::Exited(status) => Some(status),
                Life::Unknown => None,
            };
            if verdict(status) == Verdict::LeaveDown {
                tracing::warn!(role = self.role.name(), "fenced by a newer compute; it stays down");
                return;
            }
            self.deaths.0.fetch_add(1, Ordering::Relaxed);
            if started.elapsed() >= HEALTHY_LIFE {
                backoff.reset();
            }
            let wait = backoff.after_failure();
            tracing::warn!(role = self.role.name(), ?status, ?wait, "exited unexpectedly; restarting");
            tokio::select! {
                () = sleep(wait) => (),
                () = told(&mut stop) => return,
            }
        }
    }

    /// One life of the role.
    async fn live_once(&self, stop: &mut watch::Receiver<bool>) -> Life {
        let mut child = match self.launcher.spawn(&self.role) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"));
                return Life::Unknown;
            }
        };
        tokio::select! {
            status = child.wait() => return status.map_or(Life::Unknown, Life::Exited),
            () = told(stop) => {}
        }
        end(&mut child, &self.role).await;
        Life::EndedOnPurpose
    }
}

/// Returns once the group is told to stop, or is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_a_fenced_compute_stays_down() {
        assert_eq!(verdict(Some(ExitStatus::from_raw(EXIT_FENCED << 8))), Verdict::LeaveDown);
        assert_eq!(verdict(Some(ExitStatus::from_raw(1 << 8))), Verdict::Restart);
        assert_eq!(verdict(Some(ExitStatus::from_raw(9))), Verdict::Restart);
        assert_eq!(verdict(None), Verdict::Restart);
    }
}
