//! The `postgres` process: how it is started, watched, asked and ended.
//!
//! Each postmaster has a *keeper*: a thread that starts it, waits for it and lives as long as it does, because the
//! kernel ends the child when the thread that started it ends. Signals go through [`Postgres::signal`], which never
//! reaches a process that merely inherited the number of one that was reaped.

use crate::owner::Owner;
use crate::quorum::local_wal::TIMELINE;
use crate::{Config, Error, conf, place};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use quire_cache::{ComputeDir, ControlMap, ControlSettings};
use quire_types::Lsn;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// The file name of the shim in a compute\'s directory.
pub(crate) const SHIM: &str = "libquire_shim.so";

const READY_POLL: Duration = Duration::from_millis(20);
/// How much of the log's end is searched for an error.
const LAST_WORDS_BYTES_MAX: usize = 64 << 10;
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A running (or just ended) postmaster.
#[derive(Debug)]
pub struct Postgres {
    pid: Pid,
    /// Whether `pid` still names our process; the keeper clears it before it reaps.
    alive: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Where in the log it began.
    log_begins: u64,
}

impl Postgres {
    /// Starts `postgres` over the compute's data directory, with the shim.
    pub async fn spawn(config: &Config, owner: Owner, shim: &Path) -> Result<Postgres, Error> {
        remove_stale_socket(config)?;
        let mut command = server_command(config, owner, shim)?;
        let log = open_log(config)?;
        let log_begins = log.metadata().map_err(Error::file("examine", log_path(config)))?.len();
        command.stdout(log.try_clone().map_err(Error::file("duplicate", log_path(config)))?).stderr(log);
        let (started, start) = oneshot::channel();
        let (exited, exit) = watch::channel(None);
        let alive = Arc::new(Mutex::new(true));
        let keeper_alive = alive.clone();
        let keep = move || keep(command, started, &keeper_alive, &exited);
        std::thread::Builder::new()
            .name("postgres-keeper".into())
            .spawn(keep)
            .map_err(|error| Error::System("cannot start a thread", error))?;
        let pid =
            start.await.map_err(|_| Error::ShuttingDown)?.map_err(Error::file("run", config.program("postgres")))?;
        Ok(Postgres { pid, alive, exit, log_begins })
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        let alive = self.alive.lock();
        if *alive {
            // It may be a zombie already; then there is nothing to tell it.
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits until the postmaster has ended, and says how.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        // The keeper ends without a status only if waiting failed, which leaves nothing known about the child.
        status.unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL))
    }

    /// How the postmaster ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until connections are accepted, which are the agent's alone at first, and gives one: none if the server is
    /// ready but refuses the agent, as where the superuser may not log in any more.
    pub async fn ready(&self, config: &Config) -> Result<Option<tokio_postgres::Client>, Error> {
        let mut database = "postgres";
        loop {
            if let Some(status) = self.exit_status() {
                let (status, said, log) = (status.to_string(), self.last_words(config), log_path(config));
                return Err(Error::StartFailed { status, said, log });
            }
            match try_connect(config, database).await {
                Ok(client) => return Ok(Some(client)),
                // It may be dropped; this one may not.
                Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => database = "template1",
                Err(error) if refuses(&error) => {
                    tracing::warn!(
                        error = said(&error),
                        "PostgreSQL runs, but its superuser cannot connect over the Unix socket"
                    );
                    return Ok(None);
                }
                Err(error) => tracing::trace!(%error, "not ready"),
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// What it gave as the reason for its end, as far as that is in its log.
    fn last_words(&self, config: &Config) -> String {
        let mut text = vec![0; LAST_WORDS_BYTES_MAX];
        let read = File::open(log_path(config)).and_then(|log| {
            let begins = log.metadata()?.len().saturating_sub(LAST_WORDS_BYTES_MAX as u64).max(self.log_begins);
            log.read_at(&mut text, begins)
        });
        text.truncate(read.unwrap_or(0));
        last_error(&String::from_utf8_lossy(&text))
    }

    /// Sends `signal` and waits for the end for at most `patience`.
    pub async fn end_by(&self, signal: Signal, patience: Duration) -> Option<ExitStatus> {
        self.signal(signal);
        tokio::time::timeout(patience, self.exited()).await.ok()
    }

    /// Shuts down: fast; if that takes longer than `fast` (or `gives_up` says that it cannot succeed) by SIGKILL.
    /// Whether the end was a clean one is in the status.
    pub async fn stop(&self, fast: Duration, gives_up: impl Fn() -> bool) -> ExitStatus {
        let deadline = Instant::now() + fast;
        let mut status = self.end_by(Signal::SIGINT, Duration::from_millis(200)).await;
        while status.is_none() && Instant::now() < deadline && !gives_up() {
            status = tokio::time::timeout(Duration::from_millis(200), self.exited()).await.ok();
        }
        match status {
            Some(status) => status,
            None => {
                tracing::warn!(pid = self.pid(), "postgres did not shut down; killing it");
                self.signal(Signal::SIGKILL);
                self.exited().await
            }
        }
    }
}

impl Drop for Postgres {
    /// A postmaster that is not supervised any more must not continue.
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The last error in a log with its details, or its last line.
fn last_error(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    // The agent itself was refused while it asked whether the server is ready.
    let refused = |line: &str| line.contains("the database system is ");
    let worst = |line: &&str| ["FATAL:  ", "PANIC:  "].iter().any(|level| line.contains(level)) && !refused(line);
    let begin = lines.iter().rposition(worst).unwrap_or(lines.len().saturating_sub(1));
    let mut words = lines.get(begin..).unwrap_or_default().iter();
    let first = words.next().map(|line| message(line).to_owned()).unwrap_or_else(|| "its log says nothing".into());
    let details = words.take_while(|line| ["DETAIL:  ", "HINT:  "].iter().any(|level| line.contains(level)));
    details.fold(first, |all, line| format!("{all}; {}", message(line)))
}

/// A line without what `log_line_prefix` puts before it.
fn message(line: &str) -> &str {
    let levels = ["FATAL:  ", "PANIC:  ", "DETAIL:  ", "HINT:  "];
    levels.iter().find_map(|level| line.find(level)).map_or(line, |begin| &line[begin..])
}

/// Where `postgres` writes its log unless the settings send it elsewhere.
pub fn log_path(config: &Config) -> PathBuf {
    config.dir.join("postgres.log")
}

/// Whether the server is up and will not let the superuser in, whenever it is asked.
fn refuses(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => code.code().starts_with("28"),
        None => error.to_string().contains("password"),
    }
}

/// What the server said, which the error itself does not show.
fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Connects to the compute's own PostgreSQL as the superuser. The connection ends with the client.
pub async fn connect(config: &Config, database: &str) -> Result<tokio_postgres::Client, Error> {
    Ok(try_connect(config, database).await?)
}

/// What the agent asks and does must not depend on what users set for themselves.
const SESSION_OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c default_transaction_read_only=off -c synchronous_commit=on";

async fn try_connect(config: &Config, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut settings = tokio_postgres::Config::new();
    settings.host_path(config.socket_dir()).port(config.port).user("postgres").dbname(database);
    settings.options(SESSION_OPTIONS).application_name("quire").connect_timeout(CONNECT_PATIENCE);
    let (client, connection) = settings.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to postgres ended");
        }
    });
    Ok(client)
}

/// Checks that the shim is loaded, is a shim, and is of this build: the dynamic loader only warns, and a `postgres`
/// without the shim would acknowledge commits that no safekeeper has.
pub fn check_shim(config: &Config, owner: Owner, shim: &Path) -> Result<(), Error> {
    let folder = config.dir.join("shim-check");
    place::folder(&folder, owner)?;
    let control = ComputeDir::new(&folder).control();
    let settings = ControlSettings {
        agent_pid: std::process::id(),
        segment_bytes: 16 << 20,
        timeline: TIMELINE,
        start_lsn: Lsn::INVALID,
        bounded: false,
    };
    ControlMap::create(&control, &settings).map_err(|error| Error::Cache(control.clone(), error))?;
    owner.give(&control)?;
    let outcome = check_in(config, owner, shim, &folder, &control);
    std::fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    outcome
}

/// A shim of this build accepts `control`, and none accepts a directory without it.
fn check_in(config: &Config, owner: Owner, shim: &Path, folder: &Path, control: &Path) -> Result<(), Error> {
    let refused = |output: &Output, said: String| Error::Program {
        program: format!("postgres with {}", shim.display()),
        status: output.status.to_string(),
        output: said,
    };
    let accepts = version_under(config, owner, shim, folder)?;
    let complaints = String::from_utf8_lossy(&accepts.stderr);
    if !accepts.status.success() || complaints.contains("LD_PRELOAD") {
        return Err(refused(&accepts, complaints.trim().to_owned()));
    }
    place::remove(control)?;
    let alone = version_under(config, owner, shim, folder)?;
    if alone.status.success() {
        Err(refused(&alone, "the library is loaded, but it is no shim of Quire's".into()))
    } else {
        Ok(())
    }
}

/// `postgres --version`, as the process of a compute in `folder`.
fn version_under(config: &Config, owner: Owner, shim: &Path, folder: &Path) -> Result<Output, Error> {
    let mut command = Command::new(config.program("postgres"));
    command.arg("--version").stdin(Stdio::null());
    preload(&mut command, config, shim, folder);
    owner.adopt(&mut command);
    command.output().map_err(Error::file("run", config.program("postgres")))
}

fn server_command(config: &Config, owner: Owner, shim: &Path) -> Result<Command, Error> {
    let mut command = configured(config, owner);
    if wal_level(config, owner)? == "minimal" {
        command.args(["-c", "wal_level=replica"]);
    }
    preload(&mut command, config, shim, &config.dir);
    Ok(command)
}

/// Has the shim loaded into a server of the compute in `folder`. The loader takes its list apart at spaces and colons
/// and looks for variables in it, so that not every path could be named: the shim is named from the compute's
/// directory, where the server begins.
fn preload(command: &mut Command, config: &Config, shim: &Path, folder: &Path) {
    let name = shim.strip_prefix(&config.dir).map_or_else(|_| shim.to_owned(), |name| Path::new(".").join(name));
    command.current_dir(&config.dir).env("LD_PRELOAD", name).env("QUIRE_COMPUTE_DIR", folder);
}

/// `postgres` over the data directory with everything that is enforced, without the shim.
fn configured(config: &Config, owner: Owner) -> Command {
    let mut command = Command::new(config.program("postgres"));
    command.arg("-D").arg(config.pgdata());
    for (name, value) in conf::enforced(config) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    owner.adopt(command.current_dir("/").stdin(Stdio::null()).env_remove("LD_PRELOAD"));
    command
}

/// The `wal_level` that the configuration files ask for, which also shows whether they can be read at all.
fn wal_level(config: &Config, owner: Owner) -> Result<String, Error> {
    let mut command = configured(config, owner);
    let output = command.args(["-C", "wal_level"]).output().map_err(Error::file("run", config.program("postgres")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(Error::Program {
            program: "postgres -C wal_level".into(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// A server that was killed leaves its socket and a lock file with its number, which may be another process's by now,
/// or its own while it was not asked how it ended. In the compute's own directory both are of servers that the agent
/// knows to have ended.
fn remove_stale_socket(config: &Config) -> Result<(), Error> {
    let socket = format!(".s.PGSQL.{}", config.port);
    match config.socket_dir {
        Some(_) => Ok(()),
        None => {
            [socket.clone(), format!("{socket}.lock")].iter().try_for_each(|name| place::remove(&config.dir.join(name)))
        }
    }
}

fn open_log(config: &Config) -> Result<File, Error> {
    let path = log_path(config);
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(Error::file("open", &path))?;
    // One that an earlier version made may be open to everybody.
    log.set_permissions(Permissions::from_mode(0o600)).map_err(Error::file("close to others", path))?;
    Ok(log)
}

/// The keeper's life: start, wait, tell.
fn keep(
    mut command: Command,
    started: oneshot::Sender<std::io::Result<Pid>>,
    alive: &Mutex<bool>,
    exited: &watch::Sender<Option<ExitStatus>>,
) {
    match command.spawn() {
        Ok(mut child) => {
            if started.send(Ok(pid_of(&child))).is_err() {
                // The start was called off. That it has ended by itself is what is wanted.
                let _ = child.kill();
            }
            let status = reap(&mut child, alive);
            quire_crash::plant("compute.postgres-keeper");
            exited.send_replace(status.ok());
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Waits for the end without reaping, takes the number out of use, then reaps.
fn reap(child: &mut Child, alive: &Mutex<bool>) -> std::io::Result<ExitStatus> {
    let wait = || waitid(Id::Pid(pid_of(child)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    while let Err(Errno::EINTR) = wait() {}
    *alive.lock() = false;
    child.wait()
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("Linux process ids fit in 31 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told_with_its_details() {
        let log = "x [1] LOG:  starting\nx [1] FATAL:  could not map memory: Cannot allocate memory\nx [1] HINT:  Use less.\n\
            x [1] LOG:  database system is shut down\nx [2] FATAL:  the database system is starting up\n";
        assert_eq!(last_error(log), "FATAL:  could not map memory: Cannot allocate memory; HINT:  Use less.");
        assert_eq!(last_error("nothing\nof a kind\n"), "of a kind");
        assert_eq!(last_error(""), "its log says nothing");
    }
}
