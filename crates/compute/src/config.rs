//! What a compute has to be told.

use crate::Error;
use quire_api::Tuning;
use quire_cache::layout::TABLESPACES;
use quire_types::{BranchId, BranchKey, Endpoint, NodeId, ProjectId, ShardId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Settings of one compute. Paths are made absolute by [`Config::checked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The project of the branch that the compute serves.
    pub project: ProjectId,
    /// The branch.
    pub branch: BranchId,
    /// The branch's name, for people.
    pub branch_name: String,
    /// Who says `Hello` to the safekeepers, for their logs.
    #[serde(default)]
    pub node: NodeId,
    /// The compute's own directory: `pgdata`, `tablespaces`, `meta`, `withheld`, `conf`, `control.shm`, `agent.sock`.
    /// Only `conf` outlives a cold start.
    pub dir: PathBuf,
    /// Where `postgres` and `initdb` are.
    pub pg_bin: PathBuf,
    /// The shim, `libquire_shim.so`.
    pub shim: PathBuf,
    /// PostgreSQL's port.
    pub port: u16,
    /// PostgreSQL's TCP address. Clients on it are trusted unless `conf/pg_hba.conf` is edited.
    #[serde(default = "loopback")]
    pub listen: IpAddr,
    /// Where PostgreSQL puts its Unix socket; the compute's directory if absent.
    #[serde(default)]
    pub socket_dir: Option<PathBuf>,
    /// Address of the agent's HTTP interface.
    pub http: SocketAddr,
    /// The branch's safekeepers: an odd number, all of them.
    pub safekeepers: Vec<Endpoint>,
    /// The branch's pageservers, one for each shard, in the order of their numbers.
    pub pageservers: Vec<Endpoint>,
    /// The user that `postgres` runs as if the agent is root; by default `postgres` if there is one, else `nobody`.
    #[serde(default)]
    pub run_as_user: Option<String>,
    /// Settings for `postgresql.conf`, below what the agent enforces.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// Whether the first start of the compute has `full_page_writes` off. Later switches are remembered in `conf`.
    #[serde(default)]
    pub pushdown: bool,
    /// What an administrator may change at each start.
    #[serde(flatten)]
    pub tuning: Tuning,
    /// Where pages that differ are put aside; `evidence` in the compute's directory if absent.
    #[serde(default)]
    pub evidence: Option<PathBuf>,
    /// For tests: whether every page leaves the cache as soon as it may.
    #[serde(default)]
    pub drop_everything: bool,
    /// Settings that there are not; [`Config::checked`] refuses them.
    #[serde(flatten, skip_serializing)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

impl Config {
    /// The same settings with absolute paths, or what is wrong with them.
    pub fn checked(mut self) -> Result<Config, Error> {
        if let Some(name) = self.unknown.keys().next() {
            return Err(Error::Config(format!("there is no setting {name:?}")));
        }
        if self.safekeepers.is_empty() || self.pageservers.is_empty() {
            return Err(Error::Config("a compute needs at least one safekeeper and one pageserver".into()));
        }
        self.dir = absolute(&self.dir)?;
        self.pg_bin = absolute(&self.pg_bin)?;
        self.shim = absolute(&self.shim)?;
        self.evidence = self.evidence.as_deref().map(absolute).transpose()?;
        self.socket_dir = self.socket_dir.as_deref().map(absolute).transpose()?;
        require_file(&self.program("postgres"))?;
        require_file(&self.shim)?;
        check_setting_names(&self.settings)?;
        Ok(self)
    }

    /// The pair that names the branch.
    pub fn branch_key(&self) -> BranchKey {
        BranchKey { project: self.project, branch: self.branch }
    }

    /// The shard that [`Config::pageserver`] serves.
    pub fn shard(&self) -> ShardId {
        ShardId::UNSHARDED
    }

    /// The pageserver of an unsharded branch.
    pub fn pageserver(&self) -> Endpoint {
        self.pageservers[0].clone()
    }

    /// A program of PostgreSQL's.
    pub fn program(&self, name: &str) -> PathBuf {
        self.pg_bin.join(name)
    }

    /// Where the Unix socket of PostgreSQL is.
    pub fn socket_dir(&self) -> &Path {
        self.socket_dir.as_deref().unwrap_or(&self.dir)
    }

    /// PostgreSQL's data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.dir.join("pgdata")
    }

    /// The tree of meta files beside it.
    pub fn meta(&self) -> PathBuf {
        self.dir.join("meta")
    }

    /// The directories of tablespaces, which links in the data directory point at.
    pub fn tablespaces(&self) -> PathBuf {
        self.dir.join(TABLESPACES)
    }

    /// The configuration files, which users may edit and which outlive cold starts.
    pub fn conf(&self) -> PathBuf {
        self.dir.join("conf")
    }

    /// Where pages that differ from storage's are put aside.
    pub fn evidence_dir(&self) -> PathBuf {
        self.evidence.clone().unwrap_or_else(|| self.dir.join("evidence"))
    }

    /// Whether pages may leave the cache.
    pub fn is_bounded(&self) -> bool {
        self.tuning.cache_size().bytes().is_some() || self.drop_everything
    }

    /// A libpq URI for this compute's superuser.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}/postgres", SocketAddr::new(self.listen, self.port))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}

fn require_file(path: &Path) -> Result<(), Error> {
    if path.is_file() {
        Ok(())
    } else {
        Err(Error::Config(format!("{} is not there; check pg_bin and shim", path.display())))
    }
}

/// A setting's name becomes the beginning of a line, so it must be nothing but a name.
fn check_setting_names(settings: &[(String, String)]) -> Result<(), Error> {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    match settings.iter().find(|(name, _)| !is_name(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Config(format!("not the name of a PostgreSQL setting: {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            project: ProjectId::default(),
            branch: BranchId::default(),
            branch_name: "main".into(),
            node: NodeId(1),
            dir: "/tmp/compute".into(),
            pg_bin: "/bin".into(),
            shim: "/bin/sh".into(),
            port: 5432,
            listen: loopback(),
            socket_dir: None,
            http: ([127, 0, 0, 1], 0).into(),
            safekeepers: vec![Endpoint::new("127.0.0.1", 1)],
            pageservers: vec![Endpoint::new("127.0.0.1", 2)],
            run_as_user: None,
            settings: Vec::new(),
            pushdown: false,
            tuning: Tuning::default(),
            evidence: None,
            drop_everything: false,
            unknown: BTreeMap::new(),
        }
    }

    #[test]
    fn configuration_reads_back_from_json() {
        let text = serde_json::to_string(&config()).expect("serialisable");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("readable"), config());
    }

    #[test]
    fn a_setting_that_there_is_not_is_refused_by_name_and_a_former_name_is_read() {
        let mut written = serde_json::to_value(config()).expect("serialisable");
        written["lag_bytes_max"] = 7.into();
        let read: Config = serde_json::from_value(written.clone()).expect("readable");
        assert_eq!((read.tuning.max_lag(), read.unknown.len()), (7, 0));
        written["max_leg"] = 7.into();
        let read: Config = serde_json::from_value(written).expect("readable");
        let error = read.checked().expect_err("refused");
        assert!(error.to_string().contains("max_leg"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = config().checked().expect_err("no postgres in /bin");
        assert!(error.to_string().contains("/bin/postgres"), "{error}");
    }

    #[test]
    fn a_setting_cannot_smuggle_in_another_line() {
        assert!(check_setting_names(&[("work_mem".into(), "4MB".into())]).is_ok());
        assert!(check_setting_names(&[("a = 1\nfsync".into(), "off".into())]).is_err());
        assert!(check_setting_names(&[(String::new(), "off".into())]).is_err());
    }
}
