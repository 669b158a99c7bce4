//! A PostgreSQL server of the test's own: private directory, Unix socket only, stopped when dropped.

use anyhow::{Context, Result, bail, ensure};
use quire_wal::ServerVersion;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A database cluster, started and stopped as the test says.
pub struct Cluster {
    home: TempDir,
    bin: PathBuf,
    /// Whom PostgreSQL runs as, if the test runs as root, which PostgreSQL refuses.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// `initdb`, with these lines added to the configuration. PostgreSQL is the one in `QUIRE_PG_BIN`, or the one that
    /// is installed.
    pub fn create(settings: &str) -> Result<Cluster> {
        Cluster::of(find_binaries()?, settings)
    }

    /// The same with the programs in `bin`.
    pub fn of(bin: PathBuf, settings: &str) -> Result<Cluster> {
        let home = tempfile::tempdir()?;
        let user = unprivileged_user()?;
        let cluster = Cluster { home, bin, user };
        cluster.give_away(cluster.home())?;
        let data = cluster.data();
        let data = data.to_str().context("temporary directory is not UTF-8")?;
        cluster
            .run("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"])?;
        let socket =
            format!("\nlisten_addresses = ''\nunix_socket_directories = '{}'\n", cluster.home.path().display());
        cluster.configure(&(socket + settings))?;
        Ok(cluster)
    }

    /// Adds lines to the configuration, which count from the next start on.
    pub fn configure(&self, settings: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"))?;
        Ok(file.write_all(settings.as_bytes())?)
    }

    /// The directory that all of this is in, and the server's socket.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// PostgreSQL's programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// What the server calls itself, and its version.
    pub fn version(&self) -> Result<(String, ServerVersion)> {
        let (_, said) = self.output(Path::new("postgres"), &["--version"])?;
        Ok((said.trim().to_owned(), ServerVersion::from_program(&said)?))
    }

    /// Whether the server was built with what this value of a setting needs.
    pub fn supports(&self, setting: &str) -> Result<bool> {
        let (name, _) = setting.split_once('=').context("a setting has a value")?;
        let (data, assignment) = (self.data(), setting.replace(' ', ""));
        let data = data.to_str().context("data directory is not UTF-8")?;
        let (status, _) = self.output(Path::new("postgres"), &["-D", data, "-c", &assignment, "-C", name.trim()])?;
        Ok(status.success())
    }

    /// Copies a directory to where the server's user may read and write.
    pub fn copy_in(&self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir(to)?;
        self.give_away(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                self.copy_in(&from, &to)?;
            } else {
                fs::copy(&from, &to)?;
                self.give_away(&to)?;
            }
        }
        Ok(())
    }

    /// Makes the server's user the owner.
    fn give_away(&self, path: &Path) -> Result<()> {
        match self.user {
            Some((uid, gid)) => Ok(chown(path, Some(uid), Some(gid))?),
            None => Ok(()),
        }
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        self.control("start", &["-l", &self.home.path().join("log").to_string_lossy()])
    }

    /// Stops the server cleanly.
    pub fn stop(&self) -> Result<()> {
        self.control("stop", &["-m", "fast"])
    }

    fn control(&self, action: &str, more: &[&str]) -> Result<()> {
        let data = self.data();
        let fixed = [action, "-w", "-s", "-D", data.to_str().context("data directory is not UTF-8")?];
        self.run("pg_ctl", &[&fixed, more].concat())
    }

    /// Runs SQL statement by statement; the first error fails.
    pub fn sql(&self, sql: &str) -> Result<()> {
        self.run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql])
    }

    /// Runs a script of `psql`; the first error fails.
    pub fn script(&self, script: &str) -> Result<()> {
        let file = self.home.path().join("script.sql");
        fs::write(&file, script)?;
        self.run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", &file.to_string_lossy()])
    }

    /// Runs `pgbench` with a script of its own, or the built-in one.
    pub fn pgbench(&self, arguments: &[&str], script: Option<&str>) -> Result<()> {
        let file = self.home.path().join("pgbench.sql");
        let file_name = file.to_string_lossy();
        fs::write(&file, script.unwrap_or_default())?;
        let scripted = if script.is_some() { vec!["-f", &*file_name] } else { vec![] };
        self.run("pgbench", &[&["-n"], arguments, &scripted, &["postgres"]].concat())
    }

    /// Freezes every row of every database, so that transaction status is truncated.
    pub fn freeze_all(&self) -> Result<()> {
        self.run("vacuumdb", &["--all", "--freeze", "--quiet"])
    }

    /// Runs one of PostgreSQL's programs; output appears only if it fails.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let (status, output) = self.output(Path::new(program), arguments)?;
        ensure!(status.success(), "{program} {arguments:?}: {status}\n{output}");
        Ok(())
    }

    /// Runs a program, one of PostgreSQL's if the path is relative: how it ended, and what it printed.
    pub fn output(&self, program: &Path, arguments: &[&str]) -> Result<(ExitStatus, String)> {
        // The server inherits its starter's output, so that goes to a file and not to a pipe, which would never end.
        let name = program.file_name().context("a program has a name")?;
        let log = self.home.path().join(name).with_extension("out");
        let output = fs::File::create(&log)?;
        let mut command = self.command(program);
        let status =
            command.args(arguments).stdout(output.try_clone()?).stderr(output).stdin(Stdio::null()).status()?;
        Ok((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.home.path()).env("PGHOST", self.home.path()).env("PGUSER", "postgres");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// An interactive session, for transactions that overlap.
    pub fn session(&self) -> Result<Session> {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no pipe to psql")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from psql")?);
        Ok(Session { child, input, output })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let _ = self.control("stop", &["-m", "immediate"]);
        }
    }
}

/// A `psql` that is fed line by line.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs SQL to its end.
    pub fn sql(&mut self, sql: &str) -> Result<()> {
        const MARK: &str = "statement done";
        writeln!(self.input, "{sql};\n\\echo {MARK}")?;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("psql ended during {sql:?}");
            }
            if line.trim_end() == MARK {
                return Ok(());
            }
        }
    }

    /// Ends the session.
    pub fn close(mut self) -> Result<()> {
        writeln!(self.input, "\\q")?;
        ensure!(self.child.wait()?.success(), "psql failed");
        Ok(())
    }
}

/// Where PostgreSQL's programs are, unless a test says otherwise.
pub fn find_binaries() -> Result<PathBuf> {
    let named = std::env::var_os("QUIRE_PG_BIN").map(PathBuf::from);
    let usual = ["/usr/lib/postgresql/15/bin", "/usr/pgsql-15/bin", "/usr/local/pgsql/bin"].map(PathBuf::from);
    let found = named.into_iter().chain(usual).find(|bin| bin.join("initdb").exists());
    found.context("no PostgreSQL 15 found: set QUIRE_PG_BIN to the folder of its programs")
}

/// The user `postgres`, if this process is root.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if fs::metadata(Path::new("/proc/self"))?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let entry = users.lines().find_map(|line| line.strip_prefix("postgres:")).context("no user postgres")?;
    let mut fields = entry.split(':').skip(1);
    let mut number = || -> Result<u32> { Ok(fields.next().context("short entry in /etc/passwd")?.parse()?) };
    Ok(Some((number()?, number()?)))
}
