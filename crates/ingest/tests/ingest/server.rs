//! A stock PostgreSQL server in a directory of its own.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Where Debian and most packages put PostgreSQL 15, unless `QUIRE_PG_BIN` says otherwise.
const DEFAULT_BIN: &str = "/usr/lib/postgresql/15/bin";

/// A server whose log is kept from the start. It is stopped when dropped.
pub struct Server {
    dir: TempDir,
    port: u16,
}

/// A `psql` that is kept open.
pub struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Runs `initdb` and configures the server. It is not started.
    pub fn init(settings: &[&str]) -> Result<Server> {
        let dir = TempDir::with_prefix("quire-ingest-")?;
        if let Some((uid, gid)) = unprivileged()? {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Server { dir, port };
        let data_dir = server.data_dir();
        run(server.program("initdb")?.args(["--no-sync", "--auth=trust", "-U", "postgres", "-D"]).arg(data_dir))?;
        server.configure(&[
            "fsync = off",
            "wal_keep_size = '4GB'",
            "max_wal_size = '4GB'",
            "log_min_messages = warning",
        ])?;
        server.configure(&[&format!("port = {port}"), "listen_addresses = '127.0.0.1'"])?;
        server.configure(&[&format!("unix_socket_directories = '{}'", server.dir.path().display())])?;
        server.configure(settings)?;
        Ok(server)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Appends settings, which override earlier ones.
    pub fn configure(&self, settings: &[&str]) -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.data_dir().join("postgresql.conf"))?;
        settings.iter().try_for_each(|setting| writeln!(file, "{setting}"))?;
        Ok(())
    }

    pub fn start(&self) -> Result<()> {
        let log = self.dir.path().join("log");
        run(self.pg_ctl()?.args(["-w", "start", "-l"]).arg(log))
    }

    pub fn stop(&self) -> Result<()> {
        run(self.pg_ctl()?.args(["-w", "stop", "-m", "fast"]))
    }

    /// Ends the server without a checkpoint.
    pub fn crash(&self) -> Result<()> {
        run(self.pg_ctl()?.args(["-w", "stop", "-m", "immediate"]))
    }

    /// Runs statements, each in a transaction of its own unless they say otherwise.
    pub fn sql(&self, statements: &str) -> Result<()> {
        let script = self.dir.path().join("script.sql");
        fs::write(&script, statements)?;
        run(self.psql()?.arg("-f").arg(script)).with_context(|| statements.to_owned())
    }

    /// Runs statements and leaves the session open once they are done.
    pub fn session(&self, statements: &str) -> Result<Session> {
        let mut child = self.psql()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.as_mut().context("piped")?;
        writeln!(input, "{statements}\n\\echo done")?;
        let output = BufReader::new(child.stdout.take().context("piped")?);
        ensure!(output.lines().map_while(Result::ok).any(|line| line == "done"), "the session ended early");
        Ok(Session(child))
    }

    pub fn pgbench(&self, args: &[&str]) -> Result<()> {
        let mut command = self.program("pgbench")?;
        run(command
            .args(args)
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
            .arg(self.port.to_string())
            .arg("postgres"))
    }

    fn psql(&self) -> Result<Command> {
        let mut command = self.program("psql")?;
        command.args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-p",
        ]);
        command.arg(self.port.to_string());
        Ok(command)
    }

    fn pg_ctl(&self) -> Result<Command> {
        let mut command = self.program("pg_ctl")?;
        command.arg("-D").arg(self.data_dir());
        Ok(command)
    }

    /// One of PostgreSQL's programs, as a user that it accepts.
    fn program(&self, name: &str) -> Result<Command> {
        let bin = std::env::var("QUIRE_PG_BIN").unwrap_or_else(|_| DEFAULT_BIN.to_owned());
        let mut command = Command::new(Path::new(&bin).join(name));
        command.current_dir(self.dir.path());
        if let Some((uid, gid)) = unprivileged()? {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data_dir().join("postmaster.pid").exists() {
            let _ = self.crash();
        }
    }
}

/// The user to run PostgreSQL as, if this is root, whom it refuses.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let user = nix::unistd::User::from_name("postgres")?.context("there is no user postgres")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

fn run(command: &mut Command) -> Result<()> {
    let log = tempfile::tempfile()?;
    let mut kept = log.try_clone()?;
    let status = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
    if !status.success() {
        use std::io::{Read, Seek};
        let mut text = String::new();
        kept.rewind()?;
        kept.read_to_string(&mut text)?;
        anyhow::bail!("{command:?} failed: {text}");
    }
    Ok(())
}
