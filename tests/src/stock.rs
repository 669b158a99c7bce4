//! A PostgreSQL without Quire, in a folder of its own.

use crate::processes::postgres_program;
use crate::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
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
        let mut stock = Stock::empty();
        let data = stock.data().display().to_string();
        stock.run("pg_basebackup", &["-d", url, "-D", &data, "-X", "stream", "-c", "fast", "--no-sync"]);
        stock.run_server().await;
        stock
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

    async fn try_connect(&self) -> Option<Client> {
        let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port);
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
