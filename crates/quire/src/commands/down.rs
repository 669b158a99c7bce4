//! `quire down`

use crate::context::Context;
use crate::deployment::Deployment;
use crate::lock::{Holder, holder};
use crate::processes;
use crate::user::compute_dirs;
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The sum of what the supervisor grants its roles, and a little.
const STOP_TIMEOUT: Duration = Duration::from_secs(150);

/// How long processes left by a killed supervisor may take.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Stop all roles; the data stays
///
/// Does nothing where nothing runs. Also ends what a killed supervisor may have left.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  quire down && rm -rf .quire     leave for good")]
pub struct Args {}

impl Args {
    /// Returns once no process is left.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let stopped = stop_supervisor(context)?;
        let compute_dirs = match Deployment::load(&context.home)? {
            Some(deployment) => compute_dirs(&context.home, &deployment),
            None => Vec::new(),
        };
        let orphans = processes::end_all(&context.home, &compute_dirs, ORPHAN_PATIENCE);
        let answer = json!({ "stopped": stopped || orphans });
        context.answer(&answer, |_| if stopped || orphans { "stopped" } else { "nothing was running" }.to_owned())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// True if there was one.
fn stop_supervisor(context: &Context) -> Result<bool> {
    let Holder::Process(pid) = holder(&context.home)? else {
        return Ok(false);
    };
    let target = Pid::from_raw(i32::try_from(pid)?);
    // The lock says that this process is the supervisor of this directory, so the signal cannot reach a stranger.
    kill(target, Signal::SIGTERM)
        .with_context(|| format!("cannot stop process {pid}; try as the user that started it"))?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while matches!(holder(&context.home)?, Holder::Process(holder) if holder == pid) || processes::is_alive(pid) {
        ensure!(Instant::now() < deadline, "process {pid} does not end; see {}", context.home.log_file("up").display());
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}
