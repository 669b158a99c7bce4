//! Whether the PostgreSQL that runs is the one that is installed.
//!
//! A package manager replaces the programs under a running server, which continues with what it has loaded until it is
//! restarted. The agent is not told, so it looks at the file from time to time, and asks for its version when it is
//! another file.

use crate::handle::Handle;
use crate::outdated::Outdated;
use crate::postgres;
use crate::{Config, Error};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// Which file a program is, as far as it is seen without reading it.
type Identity = (u64, u64, u64, Option<SystemTime>);

fn identity(config: &Config) -> Option<Identity> {
    let metadata = fs::metadata(config.program("postgres")).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.modified().ok()))
}

/// Looks for as long as it is polled, and has the handle know.
pub(crate) async fn watch(handle: Handle) {
    let (mut installed, mut running) = (None, None);
    loop {
        quire_crash::plant("compute.upgrade");
        tokio::time::sleep(LOOK_INTERVAL).await;
        if let Err(error) = look(&handle, &mut installed, &mut running).await {
            // As while the package manager is at work, or PostgreSQL is on its way down.
            tracing::debug!(%error, "cannot compare the running PostgreSQL with the installed one");
        }
    }
}

async fn look(
    handle: &Handle,
    installed: &mut Option<(Identity, String)>,
    running: &mut Option<(i32, String)>,
) -> Result<(), Error> {
    let Some((_, server)) = handle.running() else {
        handle.set_outdated(None);
        return Ok(());
    };
    let Some(file) = identity(handle.config()) else { return Ok(()) };
    if installed.as_ref().is_none_or(|(known, _)| *known != file) {
        *installed = Some((file, installed_version(handle.config()).await?));
    }
    if running.as_ref().is_none_or(|(known, _)| *known != server.pid()) {
        *running = Some((server.pid(), running_version(handle.config()).await?));
    }
    if let (Some((_, installed)), Some((_, running))) = (installed, running) {
        handle.set_outdated(Outdated::new(running, installed));
    }
    Ok(())
}

async fn running_version(config: &Config) -> Result<String, Error> {
    let client = postgres::connect(config, "postgres").await?;
    Ok(client.query_one("SHOW server_version", &[]).await?.get(0))
}

/// `postgres --version` without the words before the version.
async fn installed_version(config: &Config) -> Result<String, Error> {
    let program = config.program("postgres");
    let mut command = tokio::process::Command::new(&program);
    command.arg("--version").stdin(Stdio::null()).env_remove("LD_PRELOAD").kill_on_drop(true);
    let output = command.output().await.map_err(Error::file("run", &program))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("postgres (PostgreSQL) ").filter(|_| output.status.success()) {
        Some(version) => Ok(version.to_owned()),
        None => Err(Error::Program {
            program: "postgres --version".into(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}
