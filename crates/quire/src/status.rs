//! What all roles of a folder say about themselves, in one document.
//!
//! The names in it are a promise to scripts: `safekeepers[]`, `pageservers[]` and `branches[]` with `compute`,
//! `pushdown`, `lsn` and `images`. A role that does not answer is shown as `down`, and what only it knows as null.

use crate::deployment::{Branch, Deployment, Node};
use crate::http::Peer;
use crate::roles::Role;
use serde::Serialize;
use serde_json::{Value, json};
use std::thread;

/// The document.
#[derive(Serialize, Debug)]
pub struct Status {
    /// The supervisor's pid, if it runs.
    pub supervisor: Option<u32>,
    /// The project.
    pub project: String,
    /// Whether a majority of the safekeepers answers.
    pub quorum: Quorum,
    /// One entry for each safekeeper.
    pub safekeepers: Vec<Value>,
    /// One entry for each pageserver.
    pub pageservers: Vec<Value>,
    /// One entry for each branch.
    pub branches: Vec<Value>,
}

/// Whether commits can go on.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Quorum {
    /// `ok` or `lost`.
    pub state: &'static str,
    /// Safekeepers that answer.
    pub up: usize,
    /// Safekeepers there are.
    pub of: usize,
}

impl Quorum {
    fn new(up: usize, of: usize) -> Quorum {
        Quorum { state: if up > of / 2 { "ok" } else { "lost" }, up, of }
    }
}

/// Asks all roles at once.
pub fn collect(deployment: &Deployment, supervisor: Option<u32>) -> Status {
    let safekeepers = ask_all(deployment.safekeepers.iter().cloned().map(Role::Safekeeper));
    let pageservers = ask_all(deployment.pageservers.iter().cloned().map(Role::Pageserver));
    let computes = ask_all(deployment.branches.iter().cloned().map(Role::Compute));
    let up = safekeepers.iter().filter(|answer| answer.is_some()).count();
    let stored: Vec<&Value> = pageservers.iter().flatten().collect();
    let node = |(node, answer): (&Node, &Option<Value>)| node_entry(deployment, node, answer.as_ref());
    let branch =
        |(branch, compute): (&Branch, &Option<Value>)| branch_entry(deployment, branch, compute.as_ref(), &stored);
    Status {
        supervisor,
        project: deployment.project.to_string(),
        quorum: Quorum::new(up, deployment.safekeepers.len()),
        branches: deployment.branches.iter().zip(&computes).map(branch).collect(),
        safekeepers: deployment.safekeepers.iter().zip(&safekeepers).map(node).collect(),
        pageservers: deployment.pageservers.iter().zip(&pageservers).map(node).collect(),
    }
}

/// What the pageserver says about a branch, none if it does not answer or does not know it.
pub fn stored_branch(deployment: &Deployment, branch: &Branch) -> Option<Value> {
    let node = deployment.pageservers.first()?;
    let answer: Value = Role::Pageserver(node.clone()).peer().get("/status").ok()?;
    find_branch(deployment, branch, [&answer])
}

fn ask_all(roles: impl Iterator<Item = Role>) -> Vec<Option<Value>> {
    let ask = |peer: Peer| thread::spawn(move || peer.get("/status").ok());
    let questions: Vec<_> = roles.map(|role| ask(role.peer())).collect();
    questions.into_iter().map(|question| question.join().ok().flatten()).collect()
}

/// Where a node is, whether it answers, and what it says of the branches that exist. It names branches as
/// people do.
fn node_entry(deployment: &Deployment, node: &Node, answer: Option<&Value>) -> Value {
    let told = |branch: &Branch| {
        let mut entry = find_branch(deployment, branch, answer)?;
        entry["name"] = json!(branch.name);
        Some(entry)
    };
    json!({
        "node": node.node,
        "state": if answer.is_some() { "up" } else { "down" },
        "address": node.address(),
        "http": node.http_address(),
        "branches": deployment.branches.iter().filter_map(told).collect::<Vec<Value>>(),
    })
}

fn branch_entry(deployment: &Deployment, branch: &Branch, compute: Option<&Value>, stored: &[&Value]) -> Value {
    let stored = find_branch(deployment, branch, stored.iter().copied()).unwrap_or_default();
    let down = json!({ "state": "down" });
    let compute = compute.unwrap_or(&down);
    json!({
        "name": branch.name,
        "id": branch.id,
        "compute": {
            "state": compute["state"],
            "url": branch.url(),
            "pid": compute["pid"],
            "term": compute["term"],
            "error": compute["error"],
            "settings_rejected": compute["settings_rejected"],
            "outdated": compute["outdated"],
            "http": branch.http_address(),
            "quorum_lost": compute["quorum"]["lost"],
            "throttle": compute["throttle"],
            "server": compute["server"],
            "cache": {
                "bytes": compute["cache"]["bytes"],
                "limit": compute["cache"]["limit"],
                "dropped": compute["cache"]["dropped"],
                "fills": compute["cache"]["fills"],
                "blocks": compute["cache"]["blocks"],
                "requests": compute["cache"]["requests"],
                "warmed": compute["cache"]["warmed"],
            },
        },
        "verification": {
            "rate": compute["verification"]["rate"],
            "checked": compute["verification"]["checked"],
            "mismatches": compute["verification"]["mismatches"],
            "kept": compute["verification"]["kept"],
            "evidence": compute["verification"]["evidence"],
            "guarded": compute["verification"]["guarded"],
        },
        "pushdown": { "state": stored["pushdown"]["state"], "since_lsn": stored["pushdown"]["since_lsn"] },
        "lsn": {
            "written": compute["lsn"]["written"],
            "committed": compute["lsn"]["committed"],
            "ingested": stored["lsn"]["ingested"],
            "durable": stored["lsn"]["durable"],
        },
        "images": stored["images"],
        "error": stored["error"],
    })
}

fn find_branch<'a>(
    deployment: &Deployment,
    branch: &Branch,
    answers: impl IntoIterator<Item = &'a Value>,
) -> Option<Value> {
    let id = branch.id.to_string();
    let project = deployment.project.to_string();
    let all = answers.into_iter().filter_map(|answer| answer["branches"].as_array()).flatten();
    let mut same = all.filter(|entry| entry["branch"] == id.as_str() && entry["project"] == project.as_str());
    same.next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Deployment {
        let mut deployment = Deployment::new("/bin".into(), 3, 1).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("branch"));
        deployment
    }

    #[test]
    fn quorum_is_lost_with_half_or_fewer_left() {
        assert_eq!([0, 1, 2, 3].map(|up| Quorum::new(up, 3).state), ["lost", "lost", "ok", "ok"]);
        assert_eq!(Quorum::new(2, 5).state, "lost");
    }

    #[test]
    fn branch_shows_what_compute_and_storage_say() {
        let deployment = deployment();
        let branch = &deployment.branches[0];
        let compute = json!({ "state": "running", "pid": 7, "lsn": { "written": "0/3", "committed": "0/2" } });
        let stored = json!({ "branches": [
            { "project": deployment.project, "branch": "another", "lsn": { "ingested": "0/9" } },
            { "project": deployment.project, "branch": branch.id, "lsn": { "ingested": "0/1", "durable": "0/0" },
              "pushdown": { "state": "on", "since_lsn": "0/1" }, "images": { "made": 4 } },
        ]});
        let entry = branch_entry(&deployment, branch, Some(&compute), &[&stored]);
        let lsn = json!({ "written": "0/3", "committed": "0/2", "ingested": "0/1", "durable": "0/0" });
        assert_eq!(entry["lsn"], lsn);
        assert_eq!((&entry["compute"]["state"], &entry["compute"]["pid"]), (&json!("running"), &json!(7)));
        assert_eq!((&entry["pushdown"]["state"], &entry["images"]["made"]), (&json!("on"), &json!(4)));
    }

    #[test]
    fn everything_that_does_not_answer_is_down() {
        let status = collect(&deployment(), None);
        assert_eq!(status.quorum.state, "lost");
        assert!(status.safekeepers.iter().chain(&status.pageservers).all(|node| node["state"] == "down"));
        assert_eq!(status.branches[0]["compute"]["state"], "down");
    }
}
