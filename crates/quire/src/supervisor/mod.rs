//! The supervisor of `quire up`: starts every role, keeps it running, ends all in order.
//!
//! Order of starting: safekeepers, pageservers, then computes, which need both. The end is the reverse, so that a
//! compute can still write its last checkpoint through the quorum and pageservers can still read it.
//!
//! All children are spawned by the main thread, which runs the only executor: the kernel ends a child when the
//! *thread* that made it ends, and that thread must be the one that lives as long as the process.

mod child;
mod group;
mod readiness;

use crate::context::FIRST_BRANCH;
use crate::deployment::{Branch, Deployment};
use crate::home::Home;
use crate::roles::{ComputeOptions, Role, compute_config, pageserver_config, safekeeper_config, write_config};
use crate::user::{compute_dir, create_compute_dir};
use anyhow::{Context, Result};
use child::Launcher;
use group::Group;
use quire_api::Tuning;
use quire_compute::error::PORT_TAKEN;
use quire_files::{Durability, publish};
use readiness::{Readiness, Trouble};
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What `quire up` was told.
pub struct Options {
    /// The directory of PostgreSQL's programs.
    pub pg_bin: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// The settings of a new branch's compute.
    pub tuning: Tuning,
}

/// Runs all roles of the directory until SIGTERM, SIGINT or SIGHUP; `ready` is called once everything answers.
pub async fn run(
    home: &Home,
    mut deployment: Deployment,
    options: &Options,
    ready: impl FnOnce(&Deployment),
) -> Result<()> {
    let mut stop = Stop::listen()?;
    let launcher = Launcher::new(home)?;
    let mut groups = Groups::new(&launcher);
    let started = tokio::select! {
        result = start(home, &mut deployment, options, &mut groups) => Some(result),
        () = stop.wait() => None,
    };
    let result = match started {
        Some(Ok(computes)) => tokio::select! {
            result = attend(home, &computes, || ready(&deployment)) => result,
            () = stop.wait() => Ok(()),
        },
        Some(Err(failed)) => Err(failed),
        None => Ok(()),
    };
    tracing::info!("stopping");
    groups.stop().await;
    result
}

/// Says so when the computes are ready, and what is the matter while they are not: storage is not stopped because of a
/// compute, which is tried again. Never ends well by itself.
async fn attend(home: &Home, computes: &Readiness, ready: impl FnOnce()) -> Result<()> {
    if let Err(error) = computes.wait_for_computes().await {
        match error.downcast_ref::<Trouble>() {
            // On another port it may start.
            Some(trouble) if !trouble.0.contains(PORT_TAKEN) => say_trouble(home, trouble)?,
            _ => return Err(error),
        }
        computes.wait_patiently_for_computes().await?;
        std::fs::remove_file(home.trouble_file()).context("cannot remove run/trouble")?;
    }
    ready();
    std::future::pending().await
}

fn say_trouble(home: &Home, trouble: &Trouble) -> Result<()> {
    tracing::error!(%trouble, "a compute does not start; storage is up, will retry the start");
    let text = format!("{}\n{trouble}\n", std::process::id());
    Ok(publish(&home.trouble_file(), text.as_bytes(), Durability::Process)?)
}

/// The roles by when they are ended.
struct Groups {
    safekeepers: Group,
    pageservers: Group,
    computes: Group,
}

impl Groups {
    fn new(launcher: &Launcher) -> Groups {
        Groups { safekeepers: Group::new(launcher), pageservers: Group::new(launcher), computes: Group::new(launcher) }
    }

    async fn stop(self) {
        self.computes.stop().await;
        self.pageservers.stop().await;
        self.safekeepers.stop().await;
    }
}

/// Starts everything; the computes are yet to be waited for.
async fn start(home: &Home, deployment: &mut Deployment, options: &Options, groups: &mut Groups) -> Result<Readiness> {
    start_storage(home, deployment, groups).await?;
    if deployment.branches.is_empty() {
        let branch = Branch { tuning: options.tuning, ..deployment.new_branch(FIRST_BRANCH)? };
        deployment.branches.push(branch);
        deployment.save(home)?;
    }
    create_branches(home, deployment, options).await?;
    start_computes(home, deployment, options, groups)
}

async fn start_storage(home: &Home, deployment: &Deployment, groups: &mut Groups) -> Result<()> {
    let mut readiness = Readiness::new(home);
    for node in deployment.safekeepers.iter().filter(|node| node.is_here()) {
        let role = Role::Safekeeper(node.clone());
        home.create_data_dir(&role.name())?;
        write_config(home, &role, &safekeeper_config(home, node))?;
        readiness.expect(role.clone(), groups.safekeepers.add(role));
    }
    for node in deployment.pageservers.iter().filter(|node| node.is_here()) {
        let role = Role::Pageserver(node.clone());
        home.create_data_dir(&role.name())?;
        write_config(home, &role, &pageserver_config(home, deployment, node))?;
        readiness.expect(role.clone(), groups.pageservers.add(role));
    }
    readiness.wait_for_storage().await?;
    tracing::info!(
        safekeepers = deployment.safekeepers.len(),
        pageservers = deployment.pageservers.len(),
        "storage is up"
    );
    Ok(())
}

fn start_computes(home: &Home, deployment: &Deployment, options: &Options, groups: &mut Groups) -> Result<Readiness> {
    let mut readiness = Readiness::new(home);
    for branch in deployment.branches.iter().filter(|branch| branch.is_here()) {
        let role = Role::Compute(branch.clone());
        say_where_the_cache_is(home, branch)?;
        let compute = compute_options(home, branch, options)?;
        write_config(home, &role, &compute_config(deployment, branch, &compute))?;
        readiness.expect(role.clone(), groups.computes.add(role));
    }
    Ok(readiness)
}

/// Creates what an earlier start did not finish, or did not begin.
async fn create_branches(home: &Home, deployment: &mut Deployment, options: &Options) -> Result<()> {
    for number in 0..deployment.branches.len() {
        let branch = deployment.branches[number].clone();
        if !branch.created && branch.is_here() {
            create_branch(home, deployment, &branch, options).await?;
            deployment.branches[number].created = true;
            deployment.save(home)?;
        }
    }
    Ok(())
}

async fn create_branch(home: &Home, deployment: &Deployment, branch: &Branch, options: &Options) -> Result<()> {
    let name = branch.name.as_str();
    tracing::info!(branch = name, "creating a branch: initdb, then its pages go into storage");
    let config = compute_config(deployment, branch, &compute_options(home, branch, options)?);
    quire_compute::bootstrap(&config).await.with_context(|| format!("the branch {name} could not be created"))
}

fn compute_options(home: &Home, branch: &Branch, options: &Options) -> Result<ComputeOptions> {
    let place = compute_dir(home, branch.project, &branch.name)?;
    create_compute_dir(&place)?;
    let evidence = home.evidence_dir(&branch.name);
    Ok(ComputeOptions { pg_bin: options.pg_bin.clone(), shim: options.shim.clone(), dir: place.path, evidence })
}

fn say_where_the_cache_is(home: &Home, branch: &Branch) -> Result<()> {
    let place = compute_dir(home, branch.project, &branch.name)?;
    if let Some(reason) = &place.outside_because {
        let dir = place.path.display();
        tracing::warn!(reason, %dir, branch = branch.name, "the compute keeps its cache outside the directory");
    }
    Ok(())
}

/// The signals that end a supervisor.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    fn listen() -> Result<Stop> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        let signals =
            [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
        Ok(Stop { signals })
    }

    async fn wait(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
            _ = hangup.recv() => (),
        }
    }
}
