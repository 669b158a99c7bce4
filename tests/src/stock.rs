//! A PostgreSQL without Quire, in a directory of its own.

use crate::processes::{of_folder, postgres_program, signal_all};
use crate::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A stock server, or what is to become one. Its process ends when it is dropped.
pub struct Stock {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Stock {
    /// A new one, running.
    pub async fn start() -> Stock {
        let mut stock = Stock::empty();
        let data = stock.data().display().to_string();
        stock.run("initdb", &["-D", &data, "-U", "postgres", "--no-sync", "-A", "trust"]);
        stock.run_server().await;
        stock
    }

    /// One that runs over a base backup of the server at `url`, taken now.
    pub async fn from_backup(url: &str) -> Stock {
        Stock::from_backup_with(url, &[], &[]).await
    }

    /// The same with further arguments of `pg_basebackup`. The tablespaces at these locations go to directories beside
    /// its data.
    pub async fn from_backup_with(url: &str, locations: &[PathBuf], arguments: &[&str]) -> Stock {
        let mut stock = Stock::empty();
        let data = stock.data().display().to_string();
        let moved = |(number, location): (usize, &PathBuf)| {
            format!("--tablespace-mapping={}={}", location.display(), stock.tablespace(number).display())
        };
        let mappings: Vec<String> = locations.iter().enumerate().map(moved).collect();
        let mut all = vec!["-d", url, "-D", &data, "-X", "stream", "-c", "fast", "--no-sync"];
        all.extend(mappings.iter().map(String::as_str).chain(arguments.iter().copied()));
        stock.run("pg_basebackup", &all);
        stock.run("pg_verifybackup", &[&data]);
        stock.run_server().await;
        stock
    }

    /// One that runs over a base backup that was taken as archives, unpacked as its manual says.
    pub async fn from_archives(url: &str, locations: &[PathBuf]) -> Stock {
        let mut stock = Stock::empty();
        let archives = stock.folder.path().join("archives");
        let directory = archives.display().to_string();
        stock.run("pg_basebackup", &["-d", url, "-D", &directory, "-F", "tar", "-c", "fast", "--no-sync"]);
        stock.unpack(&archives.join("base.tar"), &stock.data());
        stock.unpack(&archives.join("pg_wal.tar"), &stock.data().join("pg_wal"));
        let map = stock.data().join("tablespace_map");
        let mut moved = String::new();
        for line in fs::read_to_string(&map).unwrap_or_default().lines() {
            let (oid, location) = line.split_once(' ').expect("a number and a location");
            let number =
                locations.iter().position(|known| known.as_path() == Path::new(location)).expect("it is known");
            stock.unpack(&archives.join(format!("{oid}.tar")), &stock.tablespace(number));
            moved += &format!("{oid} {}\n", stock.tablespace(number).display());
        }
        fs::write(map, moved).expect("written");
        stock.run_server().await;
        stock
    }

    fn unpack(&self, archive: &Path, directory: &Path) {
        fs::create_dir_all(directory).expect("made");
        fs::set_permissions(directory, Permissions::from_mode(0o700)).expect("closed");
        let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory).status();
        assert!(unpacked.expect("tar runs").success(), "{}", archive.display());
        if let Some(user) = unprivileged() {
            chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given away");
        }
    }

    /// Where a tablespace of a base backup goes.
    fn tablespace(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("tablespace-{number}"))
    }

    fn empty() -> Stock {
        let folder = tempfile::Builder::new().prefix("stock-").tempdir_in("/tmp").expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("opened");
        if let Some(user) = unprivileged() {
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given away");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Stock { folder, port: listener.local_addr().expect("bound").port(), child: None }
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A connection to its database postgres.
    pub async fn connect(&self) -> Client {
        self.try_connect().await.expect("the stock server accepts connections")
    }

    /// A connection to another of its databases.
    pub async fn connect_to(&self, database: &str) -> Client {
        self.try_connect_to(database).await.expect("the stock server accepts connections")
    }

    /// `kill -9` of all its processes, and a start that recovers.
    pub async fn crash(&mut self) {
        let data = self.data();
        let gone = async || {
            let left = of_folder(&data);
            signal_all(&left, Signal::SIGKILL);
            left.is_empty().then_some(())
        };
        wait_for("the stock server is killed", 30, gone).await;
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        self.run_server().await;
    }

    async fn try_connect(&self) -> Option<Client> {
        self.try_connect_to("postgres").await
    }

    async fn try_connect_to(&self, database: &str) -> Option<Client> {
        let url = format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Settings are on the command line: what the data directory says stays as it is.
    async fn run_server(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let mut command = command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(self.folder.path());
        command.args(["-c", "fsync=off", "-c", "wal_retrieve_retry_interval=200ms"]);
        command.stdout(log.try_clone().expect("duplicated")).stderr(log);
        self.child = Some(command.spawn().expect("postgres runs"));
        wait_for("the stock server starts", 120, async || self.try_connect().await).await;
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = command(program).args(arguments).output().expect("the program runs");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let _ = child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("---- stock server\n{log}");
        }
    }
}

/// A program of PostgreSQL's, without the rights that it refuses.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(postgres_program(program));
    command.stdin(Stdio::null()).current_dir("/");
    if let Some(user) = unprivileged() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn unprivileged() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").ok().flatten().expect("there is a user postgres"))
}
