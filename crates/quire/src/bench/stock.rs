//! Stock PostgreSQL on the local disk, with the settings of the compute it is compared with.

use super::target::{DATABASE, Target};
use crate::deployment::Deployment;
use crate::home::Home;
use crate::user::{self, compute_dir};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Settings that both servers must share for the comparison to mean something.
const SHARED_SETTINGS: [&str; 13] = [
    "shared_buffers",
    "max_connections",
    "wal_level",
    "wal_buffers",
    "wal_compression",
    "synchronous_commit",
    "max_wal_size",
    "min_wal_size",
    "checkpoint_timeout",
    "checkpoint_completion_target",
    "work_mem",
    "maintenance_work_mem",
    "effective_cache_size",
];

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A server in a directory of its own; both are gone when it is dropped.
pub struct Stock {
    server: Child,
    dir: PathBuf,
    port: u16,
    pg_bin: PathBuf,
    settings: Vec<String>,
}

impl Stock {
    /// Makes and starts a server; `model` is where the shared settings come from.
    pub fn start(home: &Home, deployment: &Deployment, model: &Target) -> Result<Stock> {
        let dir = compute_dir(home, deployment.project(), &format!("stock-{}", std::process::id()))?.path;
        let settings = read_settings(model)?;
        eprintln!("stock: initdb in {}", dir.display());
        create_dir(&dir)?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let started = initdb(deployment, &dir).and_then(|()| spawn(&deployment.pg_bin, &dir, port, &settings));
        let server = started.inspect_err(|_| remove(&dir))?;
        let mut stock = Stock { server, dir, port, pg_bin: deployment.pg_bin.clone(), settings };
        stock.wait_until_it_answers()?;
        Ok(stock)
    }

    /// Stops and starts the server, which empties its buffers.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.server = spawn(&self.pg_bin, &self.dir, self.port, &self.settings)?;
        self.wait_until_it_answers()
    }

    /// What is measured.
    pub fn target(&self) -> Target {
        let url = |database: &str| format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port);
        Target::new("stock", url("postgres"), url(DATABASE))
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while self.target().admin().is_err() {
            ensure!(self.server.try_wait()?.is_none(), "stock PostgreSQL did not start:\n{}", self.log());
            ensure!(Instant::now() < deadline, "stock PostgreSQL does not answer:\n{}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Stock {
    fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.server.id()) {
            // SIGINT is PostgreSQL's fast shutdown.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.server.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.server.kill();
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.stop();
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("quire: cannot remove {}: {error}; remove it by hand", dir.display());
    }
}

fn read_settings(model: &Target) -> Result<Vec<String>> {
    let session = model.admin()?;
    let setting = |name: &&str| {
        let value = session.text("SELECT current_setting($1)", &[name])?;
        Ok(format!("{name}={}", value.with_context(|| format!("the compute does not know the setting {name}"))?))
    };
    SHARED_SETTINGS.iter().map(setting).collect()
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if let Some((uid, gid)) = user::server_ids()? {
        chown(dir, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn initdb(deployment: &Deployment, dir: &Path) -> Result<()> {
    let mut initdb = as_server(&deployment.pg_bin.join("initdb"))?;
    initdb
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
        .arg(dir.join("data"));
    let output = initdb.current_dir(dir).output().context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn spawn(pg_bin: &Path, dir: &Path, port: u16, settings: &[String]) -> Result<Child> {
    let mut server = as_server(&pg_bin.join("postgres"))?;
    server.arg("-D").arg(dir.join("data")).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    server.args(["-c", "fsync=on", "-c", "full_page_writes=on", "-c", "unix_socket_directories="]);
    for setting in settings {
        server.arg("-c").arg(setting);
    }
    let log = OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
    server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(dir);
    // SAFETY: prctl is a plain system call, allowed between fork and exec. It comes after the change of user, which
    // would undo it.
    unsafe { server.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?)) };
    server.spawn().context("cannot start stock PostgreSQL")
}

/// A program run by the user that PostgreSQL accepts.
fn as_server(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user::server_ids()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}
