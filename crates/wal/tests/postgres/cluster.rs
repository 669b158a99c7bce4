//! A PostgreSQL cluster in a temporary directory, the oracle of these tests.
//!
//! The binaries are those in `QUIRE_PG_BIN`, or of the distribution's PostgreSQL 15. Started as root, the server runs
//! as the user `postgres`. It listens on a Unix socket in the cluster's own directory only.

use anyhow::{Context, Result, bail, ensure};
use quire_types::Lsn;
use quire_types::lsn::segment_file_name;
use quire_wal::{ControlFile, WalStream};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A cluster; its server is stopped and its files are deleted at the end.
pub struct Cluster {
    dir: TempDir,
    bin: PathBuf,
    /// User and group the server runs as, where those are not this process's own.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Runs `initdb` with WAL segments of 1 MiB, and adds `settings` to `postgresql.conf`.
    pub fn init(settings: &str) -> Result<Cluster> {
        let bin = std::env::var_os("QUIRE_PG_BIN").map_or("/usr/lib/postgresql/15/bin".into(), PathBuf::from);
        ensure!(bin.join("postgres").exists(), "no PostgreSQL 15 in {}: set QUIRE_PG_BIN", bin.display());
        let dir = TempDir::with_prefix("quire-wal-")?;
        let user = if fs::metadata(dir.path())?.uid() == 0 { Some(unprivileged_user()?) } else { None };
        let cluster = Cluster { dir, bin, user };
        cluster.give_away(cluster.dir.path())?;
        let data = cluster.data();
        cluster.run("initdb", &["-D", path(&data)?, "-A", "trust", "-U", "postgres", "-N", "--wal-segsize=1"])?;
        let conf = data.join("postgresql.conf");
        let socket = format!("listen_addresses=''\nunix_socket_directories='{}'\n", cluster.dir.path().display());
        fs::write(&conf, fs::read_to_string(&conf)? + &socket + settings)?;
        Ok(cluster)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start(&self) -> Result<()> {
        let log = self.log_path();
        self.run("pg_ctl", &["-D", path(&self.data())?, "-l", path(&log)?, "-w", "start"]).map(drop)
    }

    /// Stops the server cleanly.
    pub fn stop(&self) -> Result<()> {
        self.run("pg_ctl", &["-D", path(&self.data())?, "-w", "-m", "fast", "stop"]).map(drop)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log_path())?)
    }

    /// Runs SQL in database `postgres`, each statement in its own transaction unless it says otherwise, and returns
    /// rows as lines, fields separated by `|`.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let script = self.dir.path().join("script.sql");
        fs::write(&script, sql)?;
        let host = path(self.dir.path())?;
        self.run(
            "psql",
            &["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", host, "-U", "postgres", "-f", path(&script)?],
        )
    }

    /// Fills `pgbench`'s tables.
    pub fn pgbench_init(&self) -> Result<()> {
        self.run("pgbench", &["-i", "-s", "1", "-q", "-h", path(self.dir.path())?, "-U", "postgres"]).map(drop)
    }

    /// Runs one of PostgreSQL's programs and returns what it writes to stdout.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir(self.dir.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let output = command.output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{program} failed: {errors}{}", self.log().unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The bytes of `pg_control`.
    pub fn control_bytes(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.data().join("global/pg_control"))?)
    }

    /// `pg_control`, parsed.
    pub fn control(&self) -> Result<ControlFile> {
        Ok(ControlFile::parse(&self.control_bytes()?)?)
    }

    /// A file of the data directory, owned by the server's user.
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let file = self.data().join(name);
        fs::write(&file, bytes)?;
        self.give_away(&file)
    }

    /// The WAL from a segment's start on, as far as there are segment files without a gap.
    pub fn wal_from(&self, segment_start: Lsn, segment_bytes: u64) -> Result<Vec<u8>> {
        let first = segment_start.segment_number(segment_bytes);
        let mut wal = Vec::new();
        for number in first.. {
            match fs::read(self.data().join("pg_wal").join(segment_file_name(1, number, segment_bytes))) {
                Ok(bytes) => wal.extend(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(wal)
    }

    /// A stream that was fed all WAL from `start`, a record boundary, on.
    pub fn stream_from(&self, start: Lsn) -> Result<WalStream> {
        let control = self.control()?;
        let segment_bytes = u64::from(control.layout.wal_segment_bytes);
        let offset = start.segment_offset(segment_bytes);
        let wal = self.wal_from(Lsn(start.0 - offset), segment_bytes)?;
        let mut stream = WalStream::new(start, segment_bytes, Some(control.system_identifier));
        stream.feed(wal.get(usize::try_from(offset)?..).context("the segment of that WAL is gone")?);
        Ok(stream)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn give_away(&self, file: &Path) -> Result<()> {
        match self.user {
            Some((uid, gid)) => Ok(chown(file, Some(uid), Some(gid))?),
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists()
            && let Some(data) = self.data().to_str()
        {
            let _ = self.run("pg_ctl", &["-D", data, "-w", "-m", "immediate", "stop"]);
        }
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary folder's name is not UTF-8")
}

fn unprivileged_user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:")).context("there is no user postgres")?;
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, uid, gid, ..] = fields[..] else { bail!("malformed line in /etc/passwd") };
    Ok((uid.parse()?, gid.parse()?))
}
