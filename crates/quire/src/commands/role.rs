//! `quire safekeeper`, `quire pageserver`, `quire compute run`: one role each, in the foreground, until told to end.

use crate::logging;
use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use quire_compute::descriptors;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The configuration of a role.
#[derive(clap::Args, Debug)]
#[command(after_help = "`quire up` writes such files as run/<role>.json below its directory.")]
pub struct Args {
    /// The role's configuration, in JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Args {
    /// Runs a safekeeper.
    pub fn safekeeper(&self) -> Result<ExitCode> {
        let config: quire_safekeeper::Config = self.read()?;
        run(async move {
            let safekeeper = quire_safekeeper::Safekeeper::open(config)?;
            safekeeper.run(told_to_end()?).await?;
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Runs a pageserver.
    pub fn pageserver(&self) -> Result<ExitCode> {
        let config: quire_pageserver::Config = self.read()?;
        run(async move {
            let pageserver = quire_pageserver::Pageserver::open(config).await?;
            pageserver.run(told_to_end()?).await?;
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Runs a compute agent. A fenced one ends with an exit status of its own.
    pub fn compute(&self) -> Result<ExitCode> {
        let config: quire_compute::Config = self.read()?;
        run(async move {
            let told_to_end = told_to_end()?;
            match run_agent(config, told_to_end).await {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => {
                    tracing::error!(%error, "the compute agent ends");
                    Ok(ExitCode::from(error.exit_code()))
                }
            }
        })
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let text = std::fs::read(&self.config).with_context(|| format!("cannot read {}", self.config.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} cannot be used", self.config.display()))
    }
}

fn run(role: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    logging::start();
    descriptors::raise_limit();
    close_new_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(role)
}

/// What this process and its children make is for its user alone, whatever umask they were started with; what others
/// need is opened where it is made.
pub fn close_new_files() {
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
}

async fn run_agent(
    config: quire_compute::Config,
    told_to_end: impl Future<Output = ()> + Send,
) -> Result<(), quire_compute::Error> {
    quire_compute::Agent::open(config).await?.run(told_to_end).await
}

/// Completes at SIGTERM or SIGINT.
fn told_to_end() -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}
