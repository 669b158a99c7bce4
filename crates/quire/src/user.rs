//! The user PostgreSQL runs as, and where that user can keep its cache.

use crate::context::FIRST_BRANCH;
use crate::deployment::Deployment;
use crate::home::{Home, create_dir};
use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use quire_compute::owner::{SERVER_USERS, ServerUser};
use quire_types::ProjectId;
use std::path::{Path, PathBuf};

/// Where caches go if the server's user cannot reach the directory.
const SYSTEM_CACHE: &str = "/var/lib/quire";

/// The longest path of a directory for Unix sockets, whose names must fit into 107 bytes with it.
const SOCKET_DIR_BYTES_MAX: usize = 80;

/// Where a branch's cache is, and why it is not in the directory, if it does not.
#[derive(Debug, Clone, PartialEq)]
pub struct CachePlace {
    /// The directory.
    pub path: PathBuf,
    /// Why it is outside the directory.
    pub outside_because: Option<String>,
}

/// Chooses the directory for the cache of branch `branch`.
pub fn compute_dir(home: &Home, project: ProjectId, branch: &str) -> Result<CachePlace> {
    let inside = home.compute_root().join(branch);
    let Some(reason) = obstacle(home, &inside)? else {
        return Ok(CachePlace { path: inside, outside_because: None });
    };
    ensure!(geteuid().is_root(), "{reason}; choose another directory with --dir");
    let path = Path::new(SYSTEM_CACHE).join(project.to_string()).join(branch);
    Ok(CachePlace { path, outside_because: Some(reason) })
}

/// Creates the directory of a compute: PostgreSQL's user's, which other users may pass and not read.
pub fn create_compute_dir(place: &CachePlace) -> Result<()> {
    let system = Path::new(SYSTEM_CACHE);
    if place.path.starts_with(system) {
        create_dir(system, 0o711)?;
    }
    if let Some(above) = place.path.parent() {
        create_dir(above, 0o711)?;
    }
    create_dir(&place.path, 0o700)?;
    if let Some((uid, gid)) = server_ids()? {
        let given = std::os::unix::fs::chown(&place.path, Some(uid), Some(gid));
        given.with_context(|| format!("cannot give {} to PostgreSQL's user", place.path.display()))?;
    }
    Ok(())
}

/// Refuses a directory that no compute could be started in, before anything is made there.
pub fn check_folder(home: &Home) -> Result<()> {
    home.check_path()?;
    compute_dir(home, ProjectId([0; 16]), FIRST_BRANCH).map(drop)
}

/// Every directory that may hold the cache of a branch of this directory, wherever it was chosen.
pub fn compute_dirs(home: &Home, deployment: &Deployment) -> Vec<PathBuf> {
    let outside = deployment.projects.iter().map(|project| Path::new(SYSTEM_CACHE).join(project.id.to_string()));
    std::iter::once(home.compute_root()).chain(outside).collect()
}

/// User and group to run PostgreSQL's programs as; none if this process is no root and need not change.
pub fn server_ids() -> Result<Option<(u32, u32)>> {
    if geteuid().is_root() { server_user().map(|user| Some((user.uid.as_raw(), user.gid.as_raw()))) } else { Ok(None) }
}

/// Why PostgreSQL cannot work in `wanted`, if it cannot.
fn obstacle(home: &Home, wanted: &Path) -> Result<Option<String>> {
    if wanted.as_os_str().len() > SOCKET_DIR_BYTES_MAX {
        return Ok(Some(format!("the path {} is too long for a Unix socket", wanted.display())));
    }
    if !geteuid().is_root() {
        return Ok(None);
    }
    let server = server_user()?;
    let closed = home.root().ancestors().find(|folder| !server.may_pass(folder));
    Ok(closed.map(|folder| format!("the user {} may not pass through {}", server.name, folder.display())))
}

/// The unprivileged user of a PostgreSQL that is started by root.
fn server_user() -> Result<ServerUser> {
    let hint = "PostgreSQL refuses to run as root and there is no user postgres; create one";
    ServerUser::find(&SERVER_USERS).context(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_an_obstacle() {
        let home = Home::new(Path::new("/tmp")).expect("home");
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(SOCKET_DIR_BYTES_MAX)));
        let reason = obstacle(&home, &long).expect("checked");
        assert!(reason.is_some_and(|reason| reason.contains("too long")));
    }
}
