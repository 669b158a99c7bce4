//! What a compute has to be told.

use crate::Error;
use quire_cache::layout::TABLESPACES;
use quire_types::{BranchId, BranchKey, NodeId, ProjectId, ShardId};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Settings of one compute. Paths are made absolute by [`Config::checked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    pub safekeepers: Vec<SocketAddr>,
    /// The branch's pageservers, one for each shard, in the order of their numbers.
    pub pageservers: Vec<SocketAddr>,
    /// The user that `postgres` runs as if the agent is root; by default `postgres` if there is one, else `nobody`.
    #[serde(default)]
    pub run_as_user: Option<String>,
    /// Settings for `postgresql.conf`, below what the agent enforces.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// Whether the first start of the compute has `full_page_writes` off. Later switches are remembered in `conf`.
    #[serde(default)]
    pub pushdown: bool,
    /// How many bytes of pages the cache holds before pages leave it; any number if absent.
    #[serde(default)]
    pub cache_bytes: Option<u64>,
    /// How many bytes of the log may wait for ingest before commits wait for it, too.
    #[serde(default = "lag_bytes_max")]
    pub lag_bytes_max: u64,
    /// How long a process waits for a page that storage does not give; then it gets an I/O error.
    #[serde(default = "fetch_seconds_max")]
    pub fetch_seconds_max: u64,
    /// How many pages a second are compared with storage's all the time; 0 for none.
    #[serde(default = "default_verify_rate")]
    pub verify_rate: u32,
    /// Where pages that differ are put aside; `evidence` in the compute's directory if absent.
    #[serde(default)]
    pub evidence: Option<PathBuf>,
    /// For tests: whether every page leaves the cache as soon as it may.
    #[serde(default)]
    pub drop_everything: bool,
}

/// A smaller cache would do nothing but fetch.
pub const CACHE_BYTES_MIN: u64 = 16 << 20;
/// How far ingest may be behind before commits wait for it, unless configured.
pub const LAG_BYTES_MAX: u64 = 1 << 30;

/// How long a process waits for a page, unless configured.
pub const FETCH_SECONDS_MAX: u64 = 60;

fn lag_bytes_max() -> u64 {
    LAG_BYTES_MAX
}

fn fetch_seconds_max() -> u64 {
    FETCH_SECONDS_MAX
}

/// Pages a second that are compared with storage's where nothing else is said.
pub const VERIFY_RATE: u32 = 20;

fn default_verify_rate() -> u32 {
    VERIFY_RATE
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

impl Config {
    /// The same settings with absolute paths, or what is wrong with them.
    pub fn checked(mut self) -> Result<Config, Error> {
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
        if self.cache_bytes.is_some_and(|bytes| bytes < CACHE_BYTES_MIN) {
            return Err(Error::Config(format!("the cache needs at least {} MiB", CACHE_BYTES_MIN >> 20)));
        }
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
    pub fn pageserver(&self) -> SocketAddr {
        self.pageservers[0]
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
        self.cache_bytes.is_some() || self.drop_everything
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
    match path.is_file() {
        true => Ok(()),
        false => Err(Error::Config(format!("{} is not there; check pg_bin and shim", path.display()))),
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
            safekeepers: vec![([127, 0, 0, 1], 1).into()],
            pageservers: vec![([127, 0, 0, 1], 2).into()],
            run_as_user: None,
            settings: Vec::new(),
            pushdown: false,
            cache_bytes: None,
            lag_bytes_max: LAG_BYTES_MAX,
            fetch_seconds_max: FETCH_SECONDS_MAX,
            verify_rate: VERIFY_RATE,
            evidence: None,
            drop_everything: false,
        }
    }

    #[test]
    fn configuration_reads_back_from_json() {
        let text = serde_json::to_string(&config()).expect("serialisable");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("readable"), config());
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
