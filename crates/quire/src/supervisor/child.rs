//! Starting and ending one child.

use crate::home::Home;
use crate::roles::Role;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quire_compute::owner::die_with_parent;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A log longer than this is put aside when its role starts, over the one put aside before.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// Starts roles of one directory as processes of this same program.
#[derive(Clone)]
pub struct Launcher {
    program: PathBuf,
    home: Home,
}

impl Launcher {
    /// A launcher for the roles of `home`.
    pub fn new(home: &Home) -> Result<Launcher> {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        Ok(Launcher { program, home: home.clone() })
    }

    /// Starts a role whose configuration was written. It leads a process group of its own, so that Ctrl-C reaches
    /// only the supervisor, and is told to end when the supervisor dies.
    pub fn spawn(&self, role: &Role) -> Result<Child> {
        let log = open_log(&self.home.log_file(&role.name()))?;
        let mut command = Command::new(&self.program);
        command.args(role.subcommand()).arg("--config").arg(self.home.config_file(&role.name()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let (parent, signal) = (Pid::this(), role.signal_of_orphan());
        // SAFETY: between fork and exec only system calls are made; nothing allocates or takes a lock.
        unsafe { command.pre_exec(move || die_with_parent(parent, signal)) };
        command.spawn().with_context(|| format!("cannot start {}", role.name()))
    }
}

/// Asks a child to end and insists after the role's patience.
pub async fn end(child: &mut Child, role: &Role) {
    send(child, Signal::SIGTERM);
    if timeout(role.patience(), child.wait()).await.is_err() {
        tracing::warn!(role = role.name(), "ignored SIGTERM; sending SIGKILL");
        send(child, Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// A child that was not waited for keeps its pid, so the signal reaches no other process.
fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn open_log(path: &Path) -> Result<File> {
    if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}
