//! A Quire in a directory of its own.

use crate::ports::PortBlock;
use crate::processes::{children, is_alive, is_stopped, of_folder, signal_all};
use crate::wait_for;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Lines of each log shown when a test fails.
const LOG_LINES: usize = 40;

/// A started Quire. When it is dropped its processes end; if the test has failed, their logs are shown first.
pub struct Quire {
    folder: TempDir,
    name: String,
    up_options: Vec<String>,
    ports: PortBlock,
    environment: Vec<(String, String)>,
    /// What `quire up` is run by, if not directly.
    shell: Option<String>,
}

impl Quire {
    /// Starts a new one.
    pub fn start() -> Quire {
        let quire = Quire::new();
        quire.up();
        quire
    }

    /// A directory in which nothing was started.
    pub fn new() -> Quire {
        let folder = tempfile::Builder::new().prefix("quire-").tempdir_in("/tmp").expect("a temporary folder");
        // PostgreSQL's user has to pass through it.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("opened");
        Quire {
            folder,
            name: "q".to_owned(),
            up_options: Vec::new(),
            ports: PortBlock::take(),
            environment: Vec::new(),
            shell: None,
        }
    }

    /// Gives `quire up` an option from now on.
    #[must_use]
    pub fn with_option(mut self, name: &str, value: &str) -> Quire {
        self.up_options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Sets a variable in the environment of `quire up` from now on.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Quire {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has `--dir` name another directory than `q`.
    #[must_use]
    pub fn in_folder(mut self, name: &str) -> Quire {
        name.clone_into(&mut self.name);
        self
    }

    /// Runs `quire up` in a shell that has run this before, such as `ulimit` or `umask`.
    #[must_use]
    pub fn after(mut self, shell: &str) -> Quire {
        self.shell = Some(shell.to_owned());
        self
    }

    /// What `--dir` names.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// `quire up --detach`.
    pub fn up(&self) {
        let output = self.try_up();
        assert!(output.status.success(), "quire up: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `quire up --detach` with its options, by way of the shell if there are words for it.
    fn up_command(&self) -> Command {
        let options = self.up_options.iter().map(String::as_str);
        let arguments: Vec<&str> = ["up", "--detach"].into_iter().chain(options).collect();
        let Some(shell) = &self.shell else { return self.command(&arguments) };
        let ports = self.ports.range();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{shell} && exec \"$0\" \"$@\"")]).arg(binary());
        command.arg("--dir").arg(self.dir()).args(arguments).args(["--ports", &ports]).stdin(Stdio::null());
        command
    }

    /// `quire up --detach`, whatever comes of it.
    pub fn try_up(&self) -> Output {
        let mut command = self.up_command();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.output().expect("quire runs")
    }

    /// `quire down`.
    pub fn down(&self) {
        self.ok(&["down"]);
    }

    /// A command in this directory, not run yet. PostgreSQL is the one in `QUIRE_PG_BIN`, if that is set and nothing
    /// else said.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--dir").arg(self.dir()).args(arguments).stdin(Stdio::null());
        let starts = arguments.first() == Some(&"up");
        if starts {
            command.args(["--ports", &self.ports.range()]);
        }
        let chooses = starts && !arguments.contains(&"--pg-bin");
        if let Some(programs) = std::env::var_os("QUIRE_PG_BIN").filter(|_| chooses) {
            command.arg("--pg-bin").arg(programs);
        }
        command
    }

    /// Runs a command, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap_or_else(|error| panic!("cannot run {}: {error}", binary().display()))
    }

    /// Runs a command that must succeed; its stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "quire {arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that must succeed and answer with one JSON document.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let said = self.ok(&all);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("quire {arguments:?} said no JSON: {error}\n{said}"))
    }

    /// `quire status --json`.
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// The entry of the branch main in the status.
    pub fn branch(&self) -> Value {
        self.status()["branches"][0].clone()
    }

    /// The URI of a database on main.
    pub fn url(&self, database: &str) -> String {
        let url = self.ok(&["url"]);
        let (server, _) = url.trim().rsplit_once('/').expect("a URI");
        format!("{server}/{database}")
    }

    /// A connection to the database postgres.
    pub async fn connect(&self) -> Client {
        self.connect_to("postgres").await
    }

    /// A connection to a database.
    pub async fn connect_to(&self, database: &str) -> Client {
        try_connect(&self.url(database)).await.expect("connected")
    }

    /// A connection as soon as one is to be had.
    pub async fn connect_when_back(&self) -> Client {
        let url = self.url("postgres");
        wait_for("the compute accepts connections", 120, async || try_connect(&url).await.ok()).await
    }

    /// Throws the cache away and starts from storage alone.
    pub fn cold_restart(&self) {
        self.ok(&["compute", "restart", "main", "--cold"]);
    }

    /// Adds a line to the configuration of PostgreSQL and restarts it.
    pub fn set(&self, line: &str) {
        let path = self.dir().join("compute/main/conf/custom.conf");
        fs::write(&path, format!("{line}\n")).expect("written");
        self.ok(&["compute", "restart", "main"]);
    }

    /// Compares the cache with storage and expects no difference.
    pub fn verify(&self) {
        let output = self.run(&["--json", "verify", "main"]);
        assert!(output.status.success(), "verify: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Pids of all its processes.
    pub fn processes(&self) -> Vec<i32> {
        of_folder(self.folder.path())
    }

    /// A path beside the Quire, for what a test needs of its own.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pid of a role, named as its log. A child of its own that has not called `exec` yet still has its command
    /// line, and is not the role.
    pub fn role(&self, name: &str) -> i32 {
        let config = self.dir().join(format!("run/{name}.json"));
        let all = of_folder(&config);
        let of_others: Vec<i32> = all.iter().flat_map(|pid| children(*pid)).collect();
        let pids: Vec<i32> = all.into_iter().filter(|pid| !of_others.contains(pid)).collect();
        assert_eq!(pids.len(), 1, "processes of {name}: {pids:?}");
        pids[0]
    }

    /// Stops a role for as long as wanted: the supervisor, which would start it again, is made to stand still first.
    pub async fn take_away(&self, role: &str) -> Away {
        let supervisor = self.supervisor();
        signal_all(&[supervisor], Signal::SIGSTOP);
        wait_for("the supervisor stands still", 30, async || is_stopped(supervisor).then_some(())).await;
        let pid = self.role(role);
        signal_all(&[pid], Signal::SIGKILL);
        wait_for("the role is gone", 30, async || (!is_alive(pid)).then_some(())).await;
        Away { supervisor }
    }

    /// The pid of the supervisor.
    pub fn supervisor(&self) -> i32 {
        let pid = std::fs::read_to_string(self.dir().join("run/up.pid")).expect("it runs");
        pid.trim().parse().expect("a pid")
    }

    /// `kill -9` of everything, and waits until it is gone.
    pub async fn kill_everything(&self) {
        signal_all(&self.processes(), Signal::SIGKILL);
        let gone = async || {
            let left = self.processes();
            signal_all(&left, Signal::SIGKILL);
            left.is_empty().then_some(())
        };
        wait_for("everything is killed", 30, gone).await;
    }

    fn show_logs(&self) {
        let logs = fs::read_dir(self.dir().join("log")).into_iter().flatten().flatten();
        for path in logs.map(|entry| entry.path()) {
            eprintln!("---- {}\n{}", path.display(), last_lines(&path));
        }
        let server_log = self.dir().join("compute/main/pgdata/log");
        for entry in fs::read_dir(server_log).into_iter().flatten().flatten() {
            eprintln!("---- {}\n{}", entry.path().display(), last_lines(&entry.path()));
        }
    }
}

/// A role that was taken away; back when dropped.
pub struct Away {
    supervisor: i32,
}

impl Drop for Away {
    fn drop(&mut self) {
        signal_all(&[self.supervisor], Signal::SIGCONT);
    }
}

impl Default for Quire {
    fn default() -> Quire {
        Quire::new()
    }
}

impl Drop for Quire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        } else {
            let _ = self.run(&["down"]);
        }
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            signal_all(&left, Signal::SIGKILL);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// The `quire` under test.
pub fn binary() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/quire");
    let path = std::env::var_os("QUIRE_BIN").map_or_else(default, PathBuf::from);
    assert!(path.is_file(), "{} is not there; run `make build` or set QUIRE_BIN", path.display());
    path
}

async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn last_lines(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
