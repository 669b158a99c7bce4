//! A data directory as a crash left it, some way after a checkpoint.

use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use quire_wal::ControlFile;
use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Nothing is written to files before it must be, so that both replays have to change every page, and no later
/// checkpoint comes. Nothing waits for a disk, which changes no record and leaves more time for making them.
const SETTINGS: &str = "
shared_buffers = 1GB
bgwriter_lru_maxpages = 0
checkpoint_timeout = 1d
max_wal_size = 64GB
fsync = off
synchronous_commit = off
";

/// How much is done before the crash, and how often it is recovered from.
pub struct Size {
    scale: u32,
    transactions: u32,
    clients: u32,
    /// Times that the same crash is recovered from.
    pub rounds: u32,
}

impl Size {
    /// The defaults, or what the environment says.
    pub fn from_environment() -> Result<Size> {
        Ok(Size {
            scale: number("REPLAY_SCALE", 10)?,
            transactions: number("REPLAY_TRANSACTIONS", 200_000)?,
            clients: number("REPLAY_CLIENTS", 4)?.max(1),
            rounds: number("REPLAY_ROUNDS", 5)?.max(1),
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { scale, transactions, clients, .. } = self;
        write!(f, "scale {scale}, {transactions} transactions, {clients} clients")
    }
}

fn number(name: &str, usual: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(usual),
    }
}

/// A cluster that crashed, and a copy of what it left.
pub struct Crashed {
    /// The cluster, whose data directory is a copy of the one the crash left.
    pub cluster: Cluster,
    left: PathBuf,
}

impl Crashed {
    /// Runs `pgbench` and stops the server without a checkpoint. Its processes end between two system calls, so no page
    /// is written by half.
    pub fn make(size: &Size, full_page_writes: &str) -> Result<Crashed> {
        let cluster = Cluster::create(&format!("{SETTINGS}full_page_writes = {full_page_writes}\n"))?;
        cluster.start()?;
        cluster.pgbench(&["-i", "-q", "-s", &size.scale.to_string()], None)?;
        cluster.sql("checkpoint")?;
        let [each, clients] = [size.transactions / size.clients, size.clients].map(|number| number.to_string());
        cluster.pgbench(&["-M", "prepared", "-c", &clients, "-j", "2", "-t", &each], None)?;
        let data = cluster.data();
        let stop = ["stop", "-w", "-m", "immediate", "-D", data.to_str().context("directory is not UTF-8")?];
        let (status, output) = cluster.output(Path::new("pg_ctl"), &stop)?;
        ensure!(status.success(), "{output}");
        // What the server does by itself once it has recovered would show as differences.
        cluster.configure("autovacuum = off\n")?;
        let left = cluster.home().join("left");
        fs::rename(&data, &left)?;
        Ok(Crashed { cluster, left })
    }

    /// Puts the data directory back as the crash left it.
    pub fn restore(&self) -> Result<PathBuf> {
        let data = self.cluster.data();
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        self.cluster.copy_in(&self.left, &data)?;
        fs::set_permissions(&data, Permissions::from_mode(0o700))?;
        Ok(data)
    }

    /// The control file that the crash left.
    pub fn control_file(&self) -> Result<ControlFile> {
        Ok(ControlFile::parse(&fs::read(self.left.join("global/pg_control"))?)?)
    }
}
