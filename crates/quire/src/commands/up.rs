//! `quire up`

use crate::beginning::Beginning;
use crate::commands::role::close_new_files;
use crate::context::Context;
use crate::deployment::Deployment;
use crate::home::Home;
use crate::lock::{Holder, UpLock, holder};
use crate::ports::PortRange;
use crate::supervisor::{self, Options};
use crate::user::{check_folder, compute_dirs};
use crate::{logging, postgres, processes};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use quire_api::{CACHE_SIZE_MIN, CacheSize, Tuning};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How often a start is tried while others take the ports it chose.
const START_ATTEMPTS: u32 = 3;

/// How long a start may take before `--detach` gives up waiting.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a process of a killed supervisor may take to end by itself.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Start all roles on this machine and supervise them
///
/// The first start creates the directory, a project in it and the branch main. Where it runs already, this says so and
/// prints the URI. Ctrl-C, SIGTERM or `quire down` stop everything; the data stays.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  quire up\n  quire up --detach\n  quire up --dir /srv/quire --pg-bin /usr/lib/postgresql/15/bin"
)]
pub struct Args {
    /// Run in the background; return once the database accepts connections
    #[arg(long)]
    detach: bool,

    /// Directory with the PostgreSQL binaries [default: searched for]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,

    /// Path to libquire_shim.so [default: next to quire]
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,

    /// Number of safekeepers to create on first start (odd)
    #[arg(long, value_name = "N", default_value_t = 3)]
    safekeepers: usize,

    /// Number of pageservers to create on first start
    #[arg(long, value_name = "N", default_value_t = 1)]
    pageservers: usize,

    /// Ports to choose from when a role is given one; saved [default: 15000-31999]
    #[arg(long, value_name = "FIRST-LAST")]
    ports: Option<PortRange>,

    #[command(flatten)]
    tuning: Tuning,

    /// This is the process in the background
    #[arg(long, hide = true)]
    background: bool,
}

/// Half of what is free where `home` is; no bound if that cannot be told.
fn default_cache_size(home: &Home) -> CacheSize {
    match statvfs(home.root()) {
        Ok(disk) => {
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            CacheSize::Bytes((free / 2).max(CACHE_SIZE_MIN))
        }
        Err(_) => CacheSize::Unlimited,
    }
}

impl Args {
    /// Runs the supervisor here, or one in the background.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        ensure!(self.safekeepers % 2 == 1, "--safekeepers must be odd: 4 safekeepers tolerate no more failures than 3");
        ensure!(self.pageservers == 1, "this release runs one pageserver; leave --pageservers at 1");
        check_folder(&context.home)?;
        let home = Home::create(context.home.root())?;
        if let Holder::Process(pid) = holder(&home)? {
            eprintln!("quire: already running (process {pid})");
            return answer_when_ready(context, &home, pid);
        }
        if self.detach && !self.background {
            return run_in_background(context, &home);
        }
        self.run_here(context, &home)
    }

    fn run_here(&self, context: &Context, home: &Home) -> Result<ExitCode> {
        logging::start();
        close_new_files();
        let _lock = UpLock::take(home)?.context("another `quire up` has just started in this directory")?;
        remove_ready(home)?;
        home.close()?;
        let beginning = Beginning::note(home)?;
        let result = self.start_and_supervise(context, home);
        remove_ready(home)?;
        if result.is_err() {
            beginning.undo(home)?;
        }
        result.map(|()| ExitCode::SUCCESS)
    }

    fn start_and_supervise(&self, context: &Context, home: &Home) -> Result<()> {
        let (mut deployment, options) = self.prepare(home)?;
        end_orphans(home, &deployment);
        leave_taken_ports(home, &mut deployment)?;
        supervise(context, home, deployment, &options)
    }

    /// What the directory is, made up now if it is new.
    fn prepare(&self, home: &Home) -> Result<(Deployment, Options)> {
        let known = Deployment::load(home)?;
        let remembered = known.as_ref().map(|deployment| deployment.pg_bin.as_path());
        let pg_bin = postgres::find_programs(self.pg_bin.as_deref(), remembered)?;
        let shim = postgres::find_shim(self.shim.as_deref())?;
        let mut deployment = match known {
            Some(deployment) => deployment,
            None => {
                let ports = self.ports.unwrap_or_default();
                Deployment::new(pg_bin.clone(), ports, self.safekeepers, self.pageservers)?
            }
        };
        deployment.ports = self.ports.unwrap_or(deployment.ports);
        deployment.pg_bin.clone_from(&pg_bin);
        for branch in &mut deployment.branches {
            branch.tuning = branch.tuning.with(self.tuning);
        }
        deployment.save(home)?;
        if self.background {
            // It is not to keep the directory in use from which it was started; all paths are absolute now.
            std::env::set_current_dir("/")?;
        }
        let tuning = Tuning { cache_size: Some(default_cache_size(home)), ..Tuning::default() }.with(self.tuning);
        Ok((deployment, Options { pg_bin, shim, tuning }))
    }
}

fn run_in_background(context: &Context, home: &Home) -> Result<ExitCode> {
    let path = home.log_file("up");
    let mut log = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
    let log_start = log.seek(SeekFrom::End(0))?;
    let mut child = background_command(home, &log)?.spawn().context("cannot start the supervisor")?;
    let waited = wait_until_ready(home, child.id(), Some(&mut child));
    match (waited, holder(home)?) {
        (Ok(Waited::Ready), _) => print_url(context, child.id()),
        (Ok(Waited::Trouble(trouble)), _) => bail!(trouble),
        (Err(_), Holder::Process(other)) if other != child.id() => answer_when_ready(context, home, other),
        (Err(error), _) => {
            log.seek(SeekFrom::Start(log_start))?;
            let mut said = String::new();
            log.read_to_string(&mut said)?;
            bail!("{error:#}\n{}", said.trim_end());
        }
    }
}

/// The same command once more, as a session of its own that writes to `log`.
fn background_command(home: &Home, log: &File) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).args(["--background", "--dir"]).arg(home.root());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    // SAFETY: setsid is a plain system call, allowed between fork and exec.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    Ok(command)
}

/// A supervisor that was killed may have left roles that are still ending; two of one kind must not share a directory.
fn end_orphans(home: &Home, deployment: &Deployment) {
    if processes::end_all(home, &compute_dirs(home, deployment), ORPHAN_PATIENCE) {
        tracing::info!("ended processes that a killed supervisor had left");
    }
}

/// Runs everything until it is to stop. A start that failed because another program was faster to listen on a port is
/// tried again.
fn supervise(context: &Context, home: &Home, mut deployment: Deployment, options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for _ in 1..START_ATTEMPTS {
        match runtime.block_on(supervisor::run(home, deployment, options, |_| announce(context, home))) {
            Ok(()) => return Ok(()),
            Err(error) => {
                // What was begun is remembered in the directory.
                deployment = Deployment::load(home)?.context("quire.json is gone")?;
                if !leave_taken_ports(home, &mut deployment)? {
                    return Err(error);
                }
                tracing::warn!(error = format!("{error:#}"), "starting once more on other ports");
            }
        }
    }
    runtime.block_on(supervisor::run(home, deployment, options, |_| announce(context, home)))
}

/// Whether any was taken.
fn leave_taken_ports(home: &Home, deployment: &mut Deployment) -> Result<bool> {
    let moves = deployment.leave_taken_ports()?;
    for (from, to) in &moves {
        tracing::warn!("port {from} is in use; using {to} instead (see `quire url`)");
    }
    if !moves.is_empty() {
        deployment.save(home)?;
    }
    Ok(!moves.is_empty())
}

fn announce(context: &Context, home: &Home) {
    let pid = std::process::id();
    if let Err(error) = std::fs::write(home.ready_file(), format!("{pid}\n")) {
        tracing::error!(%error, file = %home.ready_file().display(), "cannot say that everything is ready");
    }
    if let Err(error) = print_url(context, pid) {
        tracing::error!(error = format!("{error:#}"));
    }
    tracing::info!("ready; Ctrl-C or `quire down` stops it");
}

fn print_url(context: &Context, pid: u32) -> Result<ExitCode> {
    let url = context.branch(None)?.url();
    context.answer(&json!({ "url": url, "pid": pid }), |_| url.clone())?;
    Ok(ExitCode::SUCCESS)
}

fn remove_ready(home: &Home) -> Result<()> {
    for path in [home.ready_file(), home.trouble_file()] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the supervisor says.
enum Waited {
    /// Everything answers.
    Ready,
    /// Storage does, and a compute does not start.
    Trouble(String),
}

fn answer_when_ready(context: &Context, home: &Home, pid: u32) -> Result<ExitCode> {
    match wait_until_ready(home, pid, None)? {
        Waited::Ready => print_url(context, pid),
        Waited::Trouble(trouble) => bail!(trouble),
    }
}

/// Waits until the supervisor `pid` says that it is ready or why it is not, or is seen to have ended.
fn wait_until_ready(home: &Home, pid: u32, mut child: Option<&mut Child>) -> Result<Waited> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !says_ready(home, pid) {
        if let Some(trouble) = trouble(home, pid) {
            return Ok(Waited::Trouble(trouble));
        }
        let ended = match &mut child {
            Some(child) => child.try_wait()?.is_some(),
            None => !processes::is_alive(pid),
        };
        ensure!(!ended, "the supervisor ended while starting; see {}", home.log_file("up").display());
        ensure!(Instant::now() < deadline, "not ready after {} s; see `quire status`", START_TIMEOUT.as_secs());
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(Waited::Ready)
}

/// Why a compute does not start, if the supervisor `pid` says so.
fn trouble(home: &Home, pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(home.trouble_file()).ok()?;
    let trouble = text.strip_prefix(&format!("{pid}\n"))?.trim_end().to_owned();
    Some(format!(
        "{trouble}\nStorage is up, and the start is tried again: correct the cause and see `quire status`, or stop all with `quire down`"
    ))
}

fn says_ready(home: &Home, pid: u32) -> bool {
    std::fs::read_to_string(home.ready_file()).is_ok_and(|text| text.trim() == pid.to_string())
}
