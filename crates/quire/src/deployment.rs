//! `quire.json`: what a deployment consists of, and where each of its roles is.

use crate::home::Home;
use crate::ports::{PortRange, Ports, is_free};
use anyhow::{Context, Result, ensure};
use quire_api::Tuning;
use quire_files::{Durability, publish};
use quire_types::{BranchId, BranchKey, Endpoint, NodeId, ProjectId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The layout of `quire.json` that this program writes. Version 1 had one project, whose branches did not name it.
const VERSION: u32 = 2;

/// The project of a new deployment.
const FIRST_PROJECT: &str = "default";

/// Everything that is remembered of a deployment.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Deployment {
    /// The layout of this file.
    version: u32,
    /// The directory of the PostgreSQL binaries that the last `quire up` used.
    pub pg_bin: PathBuf,
    /// From where the ports of this machine's roles are taken.
    #[serde(default)]
    pub ports: PortRange,
    /// The safekeepers, numbered from 1. They keep the WAL of all branches.
    pub safekeepers: Vec<Node>,
    /// The pageservers, numbered from 1.
    pub pageservers: Vec<Node>,
    /// The projects, in the order they were made; there is at least one.
    pub projects: Vec<Project>,
    /// The branches of all projects, in the order they were made.
    pub branches: Vec<Branch>,
}

/// A project: databases that belong to one owner.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Project {
    /// Its identity.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
}

/// A safekeeper or a pageserver.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Node {
    /// Its number.
    pub node: NodeId,
    /// The host it runs on, by name or address.
    #[serde(default = "this_machine", skip_serializing_if = "is_this_machine")]
    pub host: String,
    /// Where it speaks to other roles.
    pub port: u16,
    /// Where it shows its status and metrics.
    pub http_port: u16,
}

/// A branch and its compute.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Branch {
    /// Its project.
    pub project: ProjectId,
    /// Its name, distinct within its project.
    pub name: String,
    /// Its identity.
    pub id: BranchId,
    /// Whether storage has it; creating it may be repeated until it does.
    pub created: bool,
    /// The host its compute runs on, by name or address.
    #[serde(default = "this_machine", skip_serializing_if = "is_this_machine")]
    pub host: String,
    /// Where its PostgreSQL listens.
    pub postgres_port: u16,
    /// Where its agent shows its status and takes orders.
    pub http_port: u16,
    /// The settings of its compute.
    #[serde(flatten)]
    pub tuning: Tuning,
}

impl Node {
    /// Where it speaks to other roles.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.host, self.port)
    }

    /// Where it shows its status and metrics.
    pub fn http_endpoint(&self) -> Endpoint {
        Endpoint::new(&self.host, self.http_port)
    }

    /// Whether it runs on this machine, so that `quire up` starts it.
    pub fn is_here(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl Branch {
    /// What names it everywhere.
    pub fn key(&self) -> BranchKey {
        BranchKey { project: self.project, branch: self.id }
    }

    /// The libpq URI of its PostgreSQL.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for another database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgresql://postgres@{}/{database}", Endpoint::new(&self.host, self.postgres_port))
    }

    /// Where its agent answers.
    pub fn http_endpoint(&self) -> Endpoint {
        Endpoint::new(&self.host, self.http_port)
    }

    /// Whether its compute runs on this machine, so that `quire up` starts it.
    pub fn is_here(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl Deployment {
    /// A new project with so many roles on this machine and no branch, every port free at this moment.
    pub fn new(pg_bin: PathBuf, ports: PortRange, safekeepers: usize, pageservers: usize) -> Result<Deployment> {
        let mut free = Ports::new(ports, Vec::new());
        let safekeepers = nodes(&mut free, safekeepers)?;
        let pageservers = nodes(&mut free, pageservers)?;
        let projects = vec![Project { id: ProjectId(rand::random()), name: FIRST_PROJECT.to_owned() }];
        Ok(Deployment { version: VERSION, pg_bin, ports, safekeepers, pageservers, projects, branches: Vec::new() })
    }

    /// Reads `quire.json`; none if there is no such file.
    pub fn load(home: &Home) -> Result<Option<Deployment>> {
        let path = home.state_file();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let damaged = || format!("{} is damaged; restore it from a backup of the directory", path.display());
        let mut document: Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        check_version(&path, &document)?;
        upgrade(&mut document);
        let deployment: Deployment = serde_json::from_value(document).with_context(damaged)?;
        ensure!(!deployment.projects.is_empty(), damaged());
        Ok(Some(deployment))
    }

    /// Writes `quire.json`.
    pub fn save(&self, home: &Home) -> Result<()> {
        Ok(publish(&home.state_file(), &serde_json::to_vec_pretty(self)?, Durability::Machine)?)
    }

    /// The project that is meant where none is named.
    pub fn project(&self) -> ProjectId {
        self.projects.first().map(|project| project.id).unwrap_or_default()
    }

    /// A branch of the first project that is not entered yet, with an identity of its own and free ports.
    pub fn new_branch(&self, name: &str) -> Result<Branch> {
        let mut ports = Ports::new(self.ports, self.taken_ports());
        Ok(Branch {
            project: self.project(),
            name: name.to_owned(),
            id: BranchId(rand::random()),
            created: false,
            host: this_machine(),
            postgres_port: ports.free()?,
            http_port: ports.free()?,
            tuning: Tuning::default(),
        })
    }

    /// Gives every role of this machine whose port another program has taken since another one; which ones changed,
    /// from and to. Nothing of this deployment may run.
    pub fn leave_taken_ports(&mut self) -> Result<Vec<(u16, u16)>> {
        let mut ports = Ports::new(self.ports, self.taken_ports());
        let mut moves = Vec::new();
        for port in self.ports_mut() {
            if !is_free(*port) {
                let free = ports.free()?;
                moves.push((std::mem::replace(port, free), free));
            }
        }
        Ok(moves)
    }

    fn ports_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        let nodes = self.safekeepers.iter_mut().chain(&mut self.pageservers).filter(|node| node.is_here());
        let branches = self.branches.iter_mut().filter(|branch| branch.is_here());
        let of_branches = branches.flat_map(|branch| [&mut branch.postgres_port, &mut branch.http_port]);
        nodes.flat_map(|node| [&mut node.port, &mut node.http_port]).chain(of_branches)
    }

    fn taken_ports(&self) -> Vec<u16> {
        let nodes = self.safekeepers.iter().chain(&self.pageservers).flat_map(|node| [node.port, node.http_port]);
        nodes.chain(self.branches.iter().flat_map(|branch| [branch.postgres_port, branch.http_port])).collect()
    }
}

fn nodes(ports: &mut Ports, count: usize) -> Result<Vec<Node>> {
    let numbers = (1..).map(NodeId).take(count);
    let new = |node| Ok(Node { node, host: this_machine(), port: ports.free()?, http_port: ports.free()? });
    numbers.map(new).collect()
}

fn check_version(path: &Path, document: &Value) -> Result<()> {
    let version = document["version"].as_u64().unwrap_or_default();
    let known = (1..=u64::from(VERSION)).contains(&version);
    ensure!(known, "{} was written by another version of quire ({version})", path.display());
    Ok(())
}

/// Brings a document of version 1 into the layout of version 2.
fn upgrade(document: &mut Value) {
    if let Some(project) = document.get("project").cloned() {
        document["projects"] = serde_json::json!([{ "id": project, "name": FIRST_PROJECT }]);
        for branch in document["branches"].as_array_mut().into_iter().flatten() {
            branch["project"] = project.clone();
        }
    }
    document["version"] = VERSION.into();
}

fn this_machine() -> String {
    "127.0.0.1".to_owned()
}

fn is_this_machine(host: &String) -> bool {
    *host == this_machine()
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::TcpListener;

    fn new() -> Deployment {
        Deployment::new("/bin".into(), PortRange::default(), 3, 1).expect("new")
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let home = Home::create(&folder.path().join("q")).expect("created");
        (folder, home)
    }

    #[test]
    fn state_reads_back_what_was_saved() {
        let (_folder, home) = home();
        assert_eq!(Deployment::load(&home).expect("no file is no error"), None);
        let mut deployment = new();
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        deployment.save(&home).expect("saved");
        assert_eq!(Deployment::load(&home).expect("loaded"), Some(deployment));
    }

    #[test]
    fn a_port_that_somebody_else_took_is_left_and_the_others_stay() {
        let mut deployment = new();
        let before = deployment.clone();
        let taken = deployment.safekeepers[1].http_port;
        let _other = TcpListener::bind(("127.0.0.1", taken)).expect("free a moment ago");
        let moves = deployment.leave_taken_ports().expect("there are others");
        assert_eq!(moves, [(taken, deployment.safekeepers[1].http_port)]);
        assert_ne!(deployment.safekeepers[1].http_port, taken);
        deployment.safekeepers[1].http_port = taken;
        assert_eq!(deployment, before);
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let mut deployment = Deployment::new("/bin".into(), PortRange::default(), 5, 2).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        let mut ports = deployment.taken_ports();
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

    #[test]
    fn the_first_layout_is_read() {
        let (_folder, home) = home();
        let (project, id) = (ProjectId([1; 16]), BranchId([2; 16]));
        let branch = json!({ "name": "main", "id": id, "created": true, "postgres_port": 5, "http_port": 6,
                             "lag_bytes_max": 9 });
        let node = json!({ "node": 1, "port": 7, "http_port": 8 });
        let first = json!({ "version": 1, "project": project, "pg_bin": "/bin", "safekeepers": [node],
                            "pageservers": [node], "branches": [branch] });
        std::fs::write(home.state_file(), first.to_string()).expect("written");
        let read = Deployment::load(&home).expect("readable").expect("there");
        assert_eq!((read.project(), read.branches[0].key()), (project, BranchKey { project, branch: id }));
        assert_eq!(read.safekeepers[0].endpoint().to_string(), "127.0.0.1:7");
        assert_eq!((read.branches[0].tuning.max_lag(), read.ports), (9, PortRange::default()));
        read.save(&home).expect("saved");
        assert_eq!(Deployment::load(&home).expect("readable"), Some(read));
    }

    #[test]
    fn a_later_layout_is_refused() {
        let (_folder, home) = home();
        std::fs::write(home.state_file(), r#"{"version": 3}"#).expect("written");
        let error = Deployment::load(&home).expect_err("refused");
        assert!(error.to_string().contains("another version"), "{error}");
    }

    #[test]
    fn roles_may_be_on_other_hosts_and_keep_their_ports() {
        let mut deployment = new();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let _listener = TcpListener::bind(("127.0.0.1", taken)).expect("free a moment ago");
        deployment.pageservers[0] =
            Node { host: "storage.example.org".into(), port: taken, ..deployment.pageservers[0].clone() };
        assert!(!deployment.pageservers[0].is_here() && deployment.safekeepers[0].is_here());
        assert_eq!(deployment.leave_taken_ports().expect("nothing to do"), []);
        assert_eq!(deployment.pageservers[0].endpoint().to_string(), format!("storage.example.org:{taken}"));
    }
}
