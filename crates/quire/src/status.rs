//! Asks all roles of a deployment for their status and makes one document of it.

use crate::deployment::{Branch, Deployment, Node};
use crate::http::Peer;
use crate::roles::Role;
use quire_api::deployment::{self as document, ComputeState, Named, NodeState, Positions, Pushdown, Quorum, Status};
use quire_api::pageserver::ShardStatus;
use quire_api::safekeeper::BranchStatus;
use quire_api::{STATUS, compute, pageserver, safekeeper};
use serde::de::DeserializeOwned;
use std::thread;

/// Asks all roles at once.
pub fn collect(deployment: &Deployment, supervisor: Option<u32>) -> Status {
    let safekeepers = ask(deployment.safekeepers.iter().cloned().map(Role::Safekeeper));
    let pageservers = ask(deployment.pageservers.iter().cloned().map(Role::Pageserver));
    let computes = ask(deployment.branches.iter().cloned().map(Role::Compute));
    let (safekeepers, pageservers, computes) = (safekeepers.answers(), pageservers.answers(), computes.answers());
    let up = safekeepers.iter().flatten().count();
    let branch = |(branch, compute): (&Branch, Option<compute::Status>)| {
        let stored = pageservers.iter().flatten().find_map(|answer| find_shard(branch, answer));
        branch_entry(branch, compute, stored)
    };
    Status {
        supervisor,
        project: deployment.project(),
        quorum: Quorum::new(up, deployment.safekeepers.len()),
        branches: deployment.branches.iter().zip(computes).map(branch).collect(),
        safekeepers: nodes(deployment, &deployment.safekeepers, &safekeepers, find_log),
        pageservers: nodes(deployment, &deployment.pageservers, &pageservers, find_shard),
    }
}

/// What the pageserver shows of a branch, none if it does not answer or does not know it.
pub fn stored_branch(deployment: &Deployment, branch: &Branch) -> Option<ShardStatus> {
    let node = deployment.pageservers.first()?;
    let answer: pageserver::Status = Role::Pageserver(node.clone()).peer().get(STATUS).ok()?;
    find_shard(branch, &answer).cloned()
}

/// Questions to roles of one kind that are under way.
struct Asked<T>(Vec<thread::JoinHandle<Option<T>>>);

fn ask<T: DeserializeOwned + Send + 'static>(roles: impl Iterator<Item = Role>) -> Asked<T> {
    let ask = |peer: Peer| thread::spawn(move || peer.get(STATUS).ok());
    Asked(roles.map(|role| ask(role.peer())).collect())
}

impl<T> Asked<T> {
    /// The answers, none from a role that does not answer.
    fn answers(self) -> Vec<Option<T>> {
        self.0.into_iter().map(|question| question.join().ok().flatten()).collect()
    }
}

/// Where nodes are, whether they answer, and what each shows of the branches that exist.
fn nodes<A, T: Clone>(
    deployment: &Deployment,
    nodes: &[Node],
    answers: &[Option<A>],
    find: for<'a> fn(&Branch, &'a A) -> Option<&'a T>,
) -> Vec<document::Node<T>> {
    let entry = |(node, answer): (&Node, &Option<A>)| {
        let named = |branch: &Branch| {
            let status = find(branch, answer.as_ref()?)?.clone();
            Some(Named { name: branch.name.clone(), status })
        };
        document::Node {
            node: node.node,
            state: if answer.is_some() { NodeState::Up } else { NodeState::Down },
            address: node.endpoint(),
            http: node.http_endpoint(),
            branches: deployment.branches.iter().filter_map(named).collect(),
        }
    };
    nodes.iter().zip(answers).map(entry).collect()
}

fn branch_entry(branch: &Branch, compute: Option<compute::Status>, stored: Option<&ShardStatus>) -> document::Branch {
    let open = stored.and_then(|stored| stored.open.as_ref());
    let at = compute.as_ref().map(|compute| compute.lsn).unwrap_or_default();
    document::Branch {
        project: branch.project,
        name: branch.name.clone(),
        id: branch.id,
        verification: compute.as_ref().map(|compute| compute.verification.clone()),
        compute: compute_entry(branch, compute),
        pushdown: open.map_or_else(Pushdown::default, |open| Pushdown {
            state: Some(open.pushdown.state),
            since_lsn: open.pushdown.since_lsn,
        }),
        lsn: Positions {
            written: at.written,
            committed: at.committed,
            ingested: open.map(|open| open.lsn.ingested),
            durable: open.map(|open| open.lsn.durable),
        },
        images: open.map(|open| open.images.clone()),
        error: stored.and_then(|stored| stored.error.clone()),
    }
}

fn compute_entry(branch: &Branch, compute: Option<compute::Status>) -> document::Compute {
    let (url, http) = (branch.url(), branch.http_endpoint());
    let Some(compute) = compute else {
        return document::Compute::silent(url, http);
    };
    document::Compute {
        state: ComputeState::Answer(compute.state),
        url,
        pid: compute.pid,
        term: compute.term,
        error: compute.error,
        settings_rejected: compute.settings_rejected,
        outdated: compute.outdated,
        http,
        quorum_lost: compute.quorum.map(|quorum| quorum.lost),
        throttle: compute.throttle,
        server: compute.server,
        cache: Some(compute.cache),
    }
}

fn find_log<'a>(branch: &Branch, answer: &'a safekeeper::Status) -> Option<&'a BranchStatus> {
    let is_it = |log: &&BranchStatus| (log.project, log.branch) == (branch.project, branch.id);
    answer.branches.iter().find(is_it)
}

fn find_shard<'a>(branch: &Branch, answer: &'a pageserver::Status) -> Option<&'a ShardStatus> {
    let is_it = |shard: &&ShardStatus| (shard.project, shard.branch) == (branch.project, branch.id);
    answer.branches.iter().find(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortRange;
    use quire_api::compute::Phase;
    use quire_api::pageserver::PushdownState;
    use quire_types::{BranchId, Lsn};
    use serde_json::{Value, json};

    fn deployment() -> Deployment {
        let mut deployment = Deployment::new("/bin".into(), PortRange::default(), 3, 1).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        deployment
    }

    fn compute() -> compute::Status {
        let none = Value::Null;
        let cache = json!({ "fills": 1, "fill_errors": 0, "blocks": 2, "requests": 1, "warmed": 0, "verified": 0,
                            "bytes": 5, "limit": 9, "dropped": 0 });
        let verification = json!({ "rate": 20, "checked": 3, "mismatches": 0, "evidence": "/e", "kept": 0,
                                   "guarded": [] });
        let status = json!({
            "branch": "main", "state": "running", "error": none, "failed_starts": 0, "settings_rejected": none,
            "outdated": none, "pid": 7, "url": "postgresql://", "term": 2, "start_lsn": none, "server": none,
            "lsn": { "written": "0/3", "committed": "0/2" }, "quorum": none, "storage_connected": true,
            "throttle": none, "cache": cache, "pushdown": true, "verification": verification,
        });
        serde_json::from_value(status).expect("a compute's status")
    }

    fn shard(deployment: &Deployment, branch: BranchId) -> Value {
        json!({
            "project": deployment.project(), "branch": branch, "shard": { "number": 0, "count": 1 }, "error": null,
            "start": "0/1", "postgres_version": 15, "lsn": { "ingested": "0/1", "durable": "0/0" },
            "pushdown": { "state": "on", "since_lsn": "0/1" },
            "images": { "made": 4, "bytes_written": 0, "backlog_pages": 0, "broken_pages": 0, "incomplete_pages": 0,
                        "longest_chain": 3, "long_chain_reads": 0, "max_deltas": 32, "max_bytes": 65_536 },
            "wal": { "records": 0, "bytes": 0, "full_page_images": 0 },
            "layers": { "runs": 0, "layers": 0, "layer_bytes": 0, "frozen_memtables": 0, "memtable_bytes": 0 },
        })
    }

    #[test]
    fn branch_shows_what_compute_and_storage_say() {
        let deployment = deployment();
        let branch = &deployment.branches[0];
        let other = shard(&deployment, BranchId::default());
        let answer = json!({ "branches": [other, shard(&deployment, branch.id)] });
        let answer: pageserver::Status = serde_json::from_value(answer).expect("a pageserver's status");
        let stored = find_shard(branch, &answer).expect("the second one");
        assert_eq!(stored.branch, branch.id);
        let entry = branch_entry(branch, Some(compute()), Some(stored));
        let lsn = [entry.lsn.written, entry.lsn.committed, entry.lsn.ingested, entry.lsn.durable];
        assert_eq!(lsn, [3, 2, 1, 0].map(|lsn| Some(Lsn(lsn))));
        assert_eq!((entry.compute.state, entry.compute.pid), (ComputeState::Answer(Phase::Running), Some(7)));
        assert_eq!(entry.pushdown.state, Some(PushdownState::On));
        assert_eq!(entry.images.map(|images| images.made), Some(4));
    }

    #[test]
    fn everything_that_does_not_answer_is_down() {
        let status = collect(&deployment(), None);
        assert!(status.quorum.is_lost());
        assert!(status.safekeepers.iter().all(|node| node.state == NodeState::Down));
        assert!(status.pageservers.iter().all(|node| node.state == NodeState::Down));
        let written = serde_json::to_value(&status).expect("written");
        assert_eq!(written["branches"][0]["compute"]["state"], "down");
        assert_eq!(written["branches"][0]["lsn"]["ingested"], Value::Null);
    }
}
