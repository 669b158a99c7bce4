//! The roles of a directory: how each is configured, started, asked and ended.

use crate::deployment::{Branch, Deployment, Node};
use crate::home::Home;
use crate::http::Peer;
use anyhow::Result;
use nix::sys::signal::Signal;
use quire_files::{Durability, publish};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The exit status of a compute agent that was fenced by a newer compute.
pub const EXIT_FENCED: i32 = 3;

/// One process of `quire up`.
#[derive(Clone, Debug)]
pub enum Role {
    /// Keeps WAL.
    Safekeeper(Node),
    /// Keeps pages.
    Pageserver(Node),
    /// Runs the PostgreSQL of a branch.
    Compute(Branch),
}

impl Role {
    /// The name in files and messages, such as `safekeeper-1` or `compute-main`.
    pub fn name(&self) -> String {
        match self {
            Role::Safekeeper(node) => format!("safekeeper-{}", node.node),
            Role::Pageserver(node) => format!("pageserver-{}", node.node),
            Role::Compute(branch) => format!("compute-{}", branch.name),
        }
    }

    /// What follows the program's name on its command line.
    pub fn subcommand(&self) -> &'static [&'static str] {
        match self {
            Role::Safekeeper(_) => &["safekeeper"],
            Role::Pageserver(_) => &["pageserver"],
            Role::Compute(_) => &["compute", "run"],
        }
    }

    /// Its HTTP interface.
    pub fn peer(&self) -> Peer {
        let endpoint = match self {
            Role::Safekeeper(node) | Role::Pageserver(node) => node.http_endpoint(),
            Role::Compute(branch) => branch.http_endpoint(),
        };
        Peer::new(self.name(), endpoint)
    }

    /// How long it may take to end by itself. A compute writes a last checkpoint.
    pub fn patience(&self) -> Duration {
        match self {
            Role::Compute(_) => Duration::from_secs(90),
            Role::Pageserver(_) => Duration::from_secs(30),
            Role::Safekeeper(_) => Duration::from_secs(10),
        }
    }

    /// How it ends when its supervisor was killed. A compute could not finish a clean stop, since the quorum ends
    /// at the same moment, and needs none: what it acknowledged is on the safekeepers' disks.
    pub fn signal_of_orphan(&self) -> Signal {
        match self {
            Role::Compute(_) => Signal::SIGKILL,
            Role::Safekeeper(_) | Role::Pageserver(_) => Signal::SIGTERM,
        }
    }
}

/// What a compute is told beside what the directory knows.
#[derive(Clone, Debug)]
pub struct ComputeOptions {
    /// The directory of PostgreSQL's programs.
    pub pg_bin: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// The directory of the cache.
    pub dir: PathBuf,
    /// Where pages that differ from storage's are put aside.
    pub evidence: PathBuf,
}

/// The configuration of a safekeeper.
pub fn safekeeper_config(home: &Home, node: &Node) -> quire_safekeeper::Config {
    let name = Role::Safekeeper(node.clone()).name();
    quire_safekeeper::Config {
        node: node.node,
        listen: local(node.port),
        http: local(node.http_port),
        data_dir: home.data_dir(&name),
        keep_segments: 1,
    }
}

/// The configuration of a pageserver.
pub fn pageserver_config(home: &Home, deployment: &Deployment, node: &Node) -> quire_pageserver::Config {
    let name = Role::Pageserver(node.clone()).name();
    let safekeepers = deployment.safekeepers.iter().map(Node::endpoint).collect();
    quire_pageserver::Config::new(node.node, local(node.port), local(node.http_port), home.data_dir(&name), safekeepers)
}

/// For tests: if it is 1, every page leaves the cache as soon as it may.
const DROP_ALL_VARIABLE: &str = "QUIRE_DROP_ALL";

/// The configuration of the compute of a branch.
pub fn compute_config(deployment: &Deployment, branch: &Branch, options: &ComputeOptions) -> quire_compute::Config {
    quire_compute::Config {
        project: branch.project,
        branch: branch.id,
        branch_name: branch.name.clone(),
        node: quire_types::NodeId::default(),
        dir: options.dir.clone(),
        pg_bin: options.pg_bin.clone(),
        shim: options.shim.clone(),
        port: branch.postgres_port,
        listen: Ipv4Addr::LOCALHOST.into(),
        socket_dir: None,
        http: local(branch.http_port),
        safekeepers: deployment.safekeepers.iter().map(Node::endpoint).collect(),
        pageservers: deployment.pageservers.iter().map(Node::endpoint).collect(),
        run_as_user: None,
        settings: Vec::new(),
        // A new project starts with full-page writes off; what is switched later is kept beside the compute.
        pushdown: true,
        tuning: branch.tuning,
        evidence: Some(options.evidence.clone()),
        drop_everything: std::env::var_os(DROP_ALL_VARIABLE).is_some_and(|value| value == "1"),
        unknown: BTreeMap::new(),
    }
}

/// Where a role of this machine listens.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Writes down what a role is started with.
pub fn write_config(home: &Home, role: &Role, config: &impl Serialize) -> Result<()> {
    Ok(publish(&home.config_file(&role.name()), &serde_json::to_vec_pretty(config)?, Durability::Machine)?)
}
