//! `quire.json`: what a folder is, and which ports its roles have.

use crate::home::Home;
use anyhow::{Context, Result, bail, ensure};
use quire_api::Tuning;
use quire_files::{Durability, publish};
use quire_types::{BranchId, NodeId, ProjectId};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;

/// The layout of `quire.json` that this program writes.
const VERSION: u32 = 1;

/// Everything that is remembered of a folder.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Deployment {
    /// The layout of this file.
    version: u32,
    /// The project all branches belong to.
    pub project: ProjectId,
    /// The PostgreSQL programs that the first `quire up` used.
    pub pg_bin: PathBuf,
    /// The safekeepers, numbered from 1.
    pub safekeepers: Vec<Node>,
    /// The pageservers, numbered from 1.
    pub pageservers: Vec<Node>,
    /// The branches, in the order they were made.
    pub branches: Vec<Branch>,
}

/// A safekeeper or a pageserver.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Node {
    /// Its number.
    pub node: NodeId,
    /// Where it speaks to other roles.
    pub port: u16,
    /// Where it tells its status and metrics.
    pub http_port: u16,
}

/// A branch and its compute.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: BranchId,
    /// Whether storage has it; creating it may be repeated until it does.
    pub created: bool,
    /// Where its PostgreSQL listens.
    pub postgres_port: u16,
    /// Where its agent tells its status and takes commands.
    pub http_port: u16,
    /// The settings of its compute.
    #[serde(flatten)]
    pub tuning: Tuning,
}

impl Node {
    /// Where it speaks to other roles.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Where it tells its status and metrics.
    pub fn http_address(&self) -> SocketAddr {
        loopback(self.http_port)
    }
}

impl Branch {
    /// The libpq URI of its PostgreSQL.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.postgres_port)
    }

    /// The same for another database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.postgres_port)
    }

    /// Where its agent answers.
    pub fn http_address(&self) -> SocketAddr {
        loopback(self.http_port)
    }
}

impl Deployment {
    /// A new project with so many roles and no branch, every port free at this moment.
    pub fn new(pg_bin: PathBuf, safekeepers: usize, pageservers: usize) -> Result<Deployment> {
        let mut ports = Ports::default();
        let safekeepers = ports.nodes(safekeepers)?;
        let pageservers = ports.nodes(pageservers)?;
        let project = ProjectId(random()?);
        Ok(Deployment { version: VERSION, project, pg_bin, safekeepers, pageservers, branches: Vec::new() })
    }

    /// Reads `quire.json`; none if there is no such file.
    pub fn load(home: &Home) -> Result<Option<Deployment>> {
        let path = home.state_file();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let deployment: Deployment = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; restore it from a backup of the folder", path.display()))?;
        ensure!(
            deployment.version == VERSION,
            "{} was written by another version of quire ({})",
            path.display(),
            deployment.version
        );
        Ok(Some(deployment))
    }

    /// Writes `quire.json`.
    pub fn save(&self, home: &Home) -> Result<()> {
        Ok(publish(&home.state_file(), &serde_json::to_vec_pretty(self)?, Durability::Machine)?)
    }

    /// A branch that is not entered yet, with an identity of its own and free ports.
    pub fn new_branch(&self, name: &str) -> Result<Branch> {
        let mut ports = Ports { taken: self.ports() };
        Ok(Branch {
            name: name.to_owned(),
            id: BranchId(random()?),
            created: false,
            postgres_port: ports.free()?,
            http_port: ports.free()?,
            tuning: Tuning::default(),
        })
    }

    /// Gives every role whose port somebody else has taken since another one; which ones changed, from and to. Nothing
    /// of this project may run.
    pub fn leave_taken_ports(&mut self) -> Result<Vec<(u16, u16)>> {
        let mut ports = Ports { taken: self.ports() };
        let mut moves = Vec::new();
        for port in self.ports_mut() {
            if TcpListener::bind(loopback(*port)).is_err() {
                let free = ports.free()?;
                moves.push((std::mem::replace(port, free), free));
            }
        }
        Ok(moves)
    }

    fn ports_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        let nodes = self.safekeepers.iter_mut().chain(&mut self.pageservers);
        let branches = self.branches.iter_mut().flat_map(|branch| [&mut branch.postgres_port, &mut branch.http_port]);
        nodes.flat_map(|node| [&mut node.port, &mut node.http_port]).chain(branches)
    }

    fn ports(&self) -> Vec<u16> {
        let nodes = self.safekeepers.iter().chain(&self.pageservers).flat_map(|node| [node.port, node.http_port]);
        nodes.chain(self.branches.iter().flat_map(|branch| [branch.postgres_port, branch.http_port])).collect()
    }
}

/// Hands out ports that nobody listens on, none twice.
#[derive(Default)]
struct Ports {
    taken: Vec<u16>,
}

impl Ports {
    /// Below the range from which Linux takes the ports of outgoing connections: one of those could otherwise sit on
    /// the port of a role just when it is started again.
    const RANGE: Range<u16> = 15_000..32_000;

    fn free(&mut self) -> Result<u16> {
        for _ in 0..1000 {
            let port = Ports::RANGE.start + u16::from_le_bytes(random()?) % (Ports::RANGE.end - Ports::RANGE.start);
            if !self.taken.contains(&port) && TcpListener::bind(loopback(port)).is_ok() {
                self.taken.push(port);
                return Ok(port);
            }
        }
        bail!("no free port on 127.0.0.1 between {} and {}", Ports::RANGE.start, Ports::RANGE.end)
    }

    fn nodes(&mut self, count: usize) -> Result<Vec<Node>> {
        let numbers = (1..).map(NodeId).take(count);
        numbers.map(|node| Ok(Node { node, port: self.free()?, http_port: self.free()? })).collect()
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let home = Home::create(&folder.path().join("q")).expect("created");
        (folder, home)
    }

    #[test]
    fn state_reads_back_what_was_saved() {
        let (_folder, home) = home();
        assert_eq!(Deployment::load(&home).expect("no file is no error"), None);
        let mut deployment = Deployment::new("/bin".into(), 3, 1).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        deployment.save(&home).expect("saved");
        assert_eq!(Deployment::load(&home).expect("loaded"), Some(deployment));
    }

    #[test]
    fn a_port_that_somebody_else_took_is_left_and_the_others_stay() {
        let mut deployment = Deployment::new(PathBuf::from("/usr/lib/postgresql/15/bin"), 3, 1).expect("made");
        let before = deployment.clone();
        let taken = deployment.safekeepers[1].http_port;
        let _other = TcpListener::bind(loopback(taken)).expect("free a moment ago");
        let moves = deployment.leave_taken_ports().expect("there are others");
        assert_eq!(moves, [(taken, deployment.safekeepers[1].http_port)]);
        assert_ne!(deployment.safekeepers[1].http_port, taken);
        deployment.safekeepers[1].http_port = taken;
        assert_eq!(deployment, before);
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let mut deployment = Deployment::new("/bin".into(), 5, 2).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        let mut ports = deployment.ports();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16);
    }

    #[test]
    fn damaged_state_is_an_error_and_not_a_new_project() {
        let (_folder, home) = home();
        std::fs::write(home.state_file(), "{\"version\": 1, \"proj").expect("written");
        assert!(Deployment::load(&home).is_err());
    }
}
