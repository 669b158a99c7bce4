//! Emptying caches, and what roles have used and done.

use crate::context::Context;
use crate::deployment::{Branch, Deployment};
use crate::processes::{Kind, of_folder};
use crate::roles::Role;
use crate::user::compute_dirs;
use anyhow::Result;
use nix::unistd::{SysconfVar, sysconf};
use quire_api::STATUS;
use quire_api::compute::{FORGET, RESTART, StartOptions, Status};
use std::fs;
use std::time::Duration;

const RESTART_TIMEOUT: Duration = Duration::from_secs(600);

/// Restarts the compute with an empty cache that is not warmed up.
pub fn restart_cold(branch: &Branch) -> Result<()> {
    let agent = Role::Compute(branch.clone()).peer();
    let _: Status = agent.post(FORGET, &(), RESTART_TIMEOUT)?;
    let _: Status = agent.post(RESTART, &StartOptions { cold: true }, RESTART_TIMEOUT)?;
    Ok(())
}

/// Empties the kernel's page cache, of the stock server's files as of the pageserver's; whether it could.
pub fn empty_page_cache() -> bool {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// What roles have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time of the compute agent.
    pub agent_cpu_seconds: f64,
    /// Processor time of the pageserver.
    pub pageserver_cpu_seconds: f64,
    /// Processor time of PostgreSQL's processes that exist.
    pub server_cpu_seconds: f64,
    /// Processor time of this process, which drives the load.
    pub clients_cpu_seconds: f64,
    /// Fetches that PostgreSQL's processes waited for.
    pub waits: u64,
    /// Requests for pages sent to the pageserver.
    pub requests: u64,
    /// Pages that came.
    pub pages: u64,
}

impl Usage {
    /// As of now.
    pub fn now(context: &Context, deployment: &Deployment, branch: &Branch) -> Result<Usage> {
        let status: Status = Role::Compute(branch.clone()).peer().get(STATUS)?;
        let processes = of_folder(&context.home, &compute_dirs(&context.home, deployment));
        let cpu = |kind: Kind| {
            let of_kind = processes.iter().filter(|process| process.kind == kind);
            of_kind.filter_map(|process| cpu_seconds(process.pid)).sum()
        };
        Ok(Usage {
            agent_cpu_seconds: cpu(Kind::Agent),
            pageserver_cpu_seconds: cpu(Kind::Pageserver),
            server_cpu_seconds: cpu(Kind::Server),
            clients_cpu_seconds: cpu_seconds(i32::try_from(std::process::id())?).unwrap_or(0.0),
            waits: status.cache.fills,
            requests: status.cache.requests,
            pages: status.cache.blocks,
        })
    }

    /// What was done here or there.
    pub fn and(&self, other: &Usage) -> Usage {
        Usage {
            agent_cpu_seconds: self.agent_cpu_seconds + other.agent_cpu_seconds,
            pageserver_cpu_seconds: self.pageserver_cpu_seconds + other.pageserver_cpu_seconds,
            server_cpu_seconds: self.server_cpu_seconds + other.server_cpu_seconds,
            clients_cpu_seconds: self.clients_cpu_seconds + other.clients_cpu_seconds,
            waits: self.waits + other.waits,
            requests: self.requests + other.requests,
            pages: self.pages + other.pages,
        }
    }

    /// What was done since `earlier`, with no cold start in between.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            agent_cpu_seconds: self.agent_cpu_seconds - earlier.agent_cpu_seconds,
            pageserver_cpu_seconds: self.pageserver_cpu_seconds - earlier.pageserver_cpu_seconds,
            // A session that ended in between has taken its time along.
            server_cpu_seconds: (self.server_cpu_seconds - earlier.server_cpu_seconds).max(0.0),
            clients_cpu_seconds: self.clients_cpu_seconds - earlier.clients_cpu_seconds,
            waits: self.waits.saturating_sub(earlier.waits),
            requests: self.requests.saturating_sub(earlier.requests),
            pages: self.pages.saturating_sub(earlier.pages),
        }
    }
}

/// Processor time of a process, in the kernel and outside. Source: proc(5), `/proc/pid/stat`.
fn cpu_seconds(pid: i32) -> Option<f64> {
    let ticks = cpu_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten()?;
    Some(ticks as f64 / per_second as f64)
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name, in parentheses, may contain anything; the third field follows it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_program_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 10 0 0 0 150 25 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("42 (a"), None);
    }
}
