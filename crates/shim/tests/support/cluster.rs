//! A cluster whose pages were set aside, and the server that runs on what is left.

use super::agent::{Agent, SEGMENT_BYTES, file_id};
use super::postgres::{User, bin, run, said};
use quire_cache::ComputeDir;
use quire_types::{Fork, Lsn};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

static TEMPLATE: OnceLock<TempDir> = OnceLock::new();

/// A cluster made by a stock server and cleanly stopped, once for all tests; every test works on a copy.
fn template() -> &'static Path {
    let make = || {
        // SAFETY: a function that outlives the process's end.
        unsafe { libc::atexit(remove_template) };
        make_template()
    };
    TEMPLATE.get_or_init(make).path()
}

/// What is static is never dropped.
extern "C" fn remove_template() {
    if let Some(dir) = TEMPLATE.get() {
        let _ = fs::remove_dir_all(dir.path());
    }
}

fn temporary() -> TempDir {
    let dir = tempfile::Builder::new().prefix("quire-shim-").tempdir_in("/tmp").expect("a folder can be made");
    User::for_postgres().own(dir.path());
    dir
}

fn make_template() -> TempDir {
    let (dir, user) = (temporary(), User::for_postgres());
    let data = dir.path().join("pgdata");
    run(user.command(bin("initdb")).args(["-U", "postgres", "-A", "trust", "-N", "--locale=C", "-D"]).arg(&data));
    let options = format!("-k {} -c listen_addresses= -c fsync=off -c wal_recycle=off", dir.path().display());
    let ctl = |arguments: &[&str]| {
        let mut command = user.command(bin("pg_ctl"));
        command.args(arguments).args(["-w", "-s", "-l"]).arg(dir.path().join("log")).arg("-D").arg(&data);
        // The server inherits what the program has open, and would keep a pipe from ever ending.
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("pg_ctl runs").success());
    };
    ctl(&["start", "-o", &options]);
    let host = dir.path().as_os_str();
    run(user.command(bin("createdb")).arg("-U").arg("postgres").arg("-h").arg(host).arg("bench"));
    let pgbench = &mut user.command(bin("pgbench"));
    run(pgbench.args(["-q", "-i", "-s", "1", "-U", "postgres", "-h"]).arg(host).arg("bench"));
    ctl(&["stop", "-m", "fast"]);
    dir
}

/// A compute on the shim.
pub struct Compute {
    // Declared first, so that it is dropped first: the server ends before its files go.
    server: Option<Child>,
    pub agent: Option<Arc<Agent>>,
    pub dir: ComputeDir,
    /// Removed at the end, unless it is another process's.
    _root: Option<TempDir>,
}

impl Compute {
    /// Lays out a compute with a copy of the template's pages set aside; neither agent nor server run yet.
    pub fn laid_out() -> Compute {
        let root = temporary();
        run(Command::new("cp").arg("-a").arg(template().join("pgdata")).arg(root.path().join("pgdata")));
        let dir = ComputeDir::new(root.path());
        let compute = Compute { server: None, agent: None, dir, _root: Some(root) };
        for folder in ["global", "pg_xact", "pg_multixact/offsets", "pg_multixact/members", "pg_wal"] {
            compute.set_aside(Path::new(folder));
        }
        for entry in fs::read_dir(compute.dir.data_file("base")).expect("the folder exists") {
            compute.set_aside(&Path::new("base").join(entry.expect("it can be listed").file_name()));
        }
        fs::create_dir_all(compute.dir.meta()).expect("a folder can be made");
        User::for_postgres().own(&compute.dir.meta());
        compute
    }

    /// A compute that another process has laid out.
    pub fn existing(root: PathBuf) -> Compute {
        Compute { server: None, agent: None, dir: ComputeDir::new(root), _root: None }
    }

    /// Moves what a directory has into storage: files of pages but for free space maps, and in a database all else too.
    fn set_aside(&self, folder: &Path) {
        fs::create_dir_all(self.storage().join(folder)).expect("a folder can be made");
        for entry in fs::read_dir(self.dir.data_file(folder)).expect("the folder exists") {
            let relative = folder.join(entry.expect("it can be listed").file_name());
            let (from, to) = (self.dir.data_file(&relative), self.storage().join(&relative));
            let advisory = matches!(file_id(&relative), Some(quire_cache::FileId::Relation { rel, .. })
                if rel.fork == Fork::FreeSpaceMap);
            if advisory || relative.ends_with("pg_internal.init") {
                fs::remove_file(from).expect("a file can be removed");
            } else if folder.starts_with("pg_wal") && from.is_file() {
                fs::copy(from, to).expect("a file can be copied");
            } else if file_id(&relative).is_some() || folder.starts_with("base") {
                fs::rename(from, to).expect("a file can be moved");
            }
        }
    }

    fn storage(&self) -> PathBuf {
        self.dir.root().join("storage")
    }

    /// Where the log of the cleanly stopped cluster ends: after the checkpoint record that is its last.
    pub fn start_lsn(&self) -> Lsn {
        let text = run(Command::new(bin("pg_controldata")).arg(self.dir.pgdata()));
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let checkpoint: Lsn =
            field("Latest checkpoint location:").expect("it is printed").parse().expect("it is an LSN");
        assert_eq!(field("Bytes per WAL segment:"), Some(SEGMENT_BYTES.to_string().as_str()));
        checkpoint
    }

    /// An agent in this process, and a server.
    pub fn started() -> Compute {
        Compute::laid_out().start()
    }

    /// A started one whose tables nothing reads but what the test asks.
    pub fn started_without_autovacuum() -> Compute {
        let compute = Compute::laid_out();
        let conf = compute.dir.data_file("postgresql.auto.conf");
        let mut conf = File::options().append(true).open(conf).expect("initdb made it");
        conf.write_all(b"autovacuum = off\n").expect("it can be written");
        compute.start()
    }

    fn start(self) -> Compute {
        let mut compute = self;
        compute.start_agent();
        compute.start_server();
        compute.wait_until_ready();
        compute
    }

    pub fn start_agent(&mut self) {
        let lsn = self.start_lsn();
        self.agent = Some(Agent::start(self.dir.clone(), self.storage(), lsn));
    }

    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("this test has an agent")
    }

    /// Starts the server as the agent has to: by `exec`, with the shim and the compute's directory in its environment.
    pub fn start_server(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log can be made");
        let mut command = User::for_postgres().command(bin("postgres"));
        command.env("LD_PRELOAD", self.shim_path()).env("QUIRE_COMPUTE_DIR", self.dir.root());
        command.arg("-D").arg(self.dir.pgdata()).arg("-k").arg(self.dir.root());
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle can be cloned")).stderr(log);
        self.server = Some(command.spawn().expect("the server can be started"));
    }

    /// The library, where PostgreSQL's user can read it.
    fn shim_path(&self) -> PathBuf {
        let copy = self.dir.root().join("libquire_shim.so");
        if !copy.exists() {
            let test = std::env::current_exe().expect("a test knows where it is");
            let built = test.with_file_name("libquire_shim.so");
            fs::copy(&built, &copy).expect("the library is built before its tests");
        }
        copy
    }

    fn log_path(&self) -> PathBuf {
        self.dir.root().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        while !self.is_ready() {
            let ended = self.server_ended();
            assert!(ended.is_none() && begun.elapsed() < DEADLINE, "{ended:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the postmaster says so; a client that asks would make it visit a database.
    fn is_ready(&self) -> bool {
        let lock_file = fs::read_to_string(self.dir.data_file("postmaster.pid")).unwrap_or_default();
        lock_file.lines().nth(7).is_some_and(|status| status.trim() == "ready")
    }

    pub fn server_pid(&self) -> i32 {
        self.server.as_ref().expect("there is a server").id().cast_signed()
    }

    fn server_ended(&mut self) -> Option<ExitStatus> {
        self.server.as_mut().and_then(|server| server.try_wait().expect("a child can be waited for"))
    }

    /// Waits for the server to end.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.server_ended() {
                self.server = None;
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "the server does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server as `pg_ctl stop -m fast`.
    pub fn stop_server(&mut self) {
        // SAFETY: our own child, which was not waited for yet.
        unsafe { libc::kill(self.server_pid(), libc::SIGINT) };
        assert!(self.wait_for_end().success(), "{}", self.log());
    }

    /// A client program that connects to this server.
    pub fn client(&self, program: &str) -> Command {
        let mut command = User::for_postgres().command(bin(program));
        command.arg("-h").arg(self.dir.root()).args(["-U", "postgres"]);
        command
    }

    /// What `psql` says to some SQL, which must succeed.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.try_sql(database, sql);
        output.unwrap_or_else(|said| panic!("{sql}: {said}\n{}", self.log()))
    }

    /// Everything `psql` says to a script, which may have commands of its own in it and may fail.
    pub fn script(&self, database: &str, script: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-d", database]).stdin(Stdio::piped());
        let mut running = psql.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql runs");
        let mut stdin = running.stdin.take().expect("piped");
        stdin.write_all(script.as_bytes()).expect("psql reads");
        drop(stdin);
        said(&running.wait_with_output().expect("psql ends"))
    }

    /// What `psql` says to some SQL, as an error if it fails.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        let output = psql.output().expect("psql runs");
        if output.status.success() { Ok(said(&output).trim_end().to_owned()) } else { Err(said(&output)) }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        if let Some(agent) = &self.agent {
            agent.stop();
        }
    }
}

/// What the shim needs, and what makes a test quick.
const SETTINGS: &[&str] = &[
    "fsync=on",
    "wal_sync_method=fdatasync",
    "wal_init_zero=off",
    "wal_recycle=off",
    "full_page_writes=off",
    "restart_after_crash=off",
    "listen_addresses=",
    "shared_buffers=2MB",
    "max_connections=30",
    "autovacuum_naptime=1s",
    "log_min_messages=warning",
];
