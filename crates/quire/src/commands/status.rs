//! `quire status`

use crate::context::Context;
use crate::lock::{Holder, holder};
use crate::status::{Status, collect};
use crate::table::{Table, cell};
use anyhow::Result;
use serde_json::Value;
use std::process::ExitCode;

/// Show safekeepers, pageservers and branches
///
/// Roles that do not answer are shown as down. The exit status is 0 whether or not anything runs.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  quire status --json | jq '.branches[0].lsn'")]
pub struct Args {}

impl Args {
    /// Asks every role and prints what it says.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let deployment = context.deployment()?;
        let supervisor = match holder(&context.home)? {
            Holder::Process(pid) => Some(pid),
            Holder::Nobody => None,
        };
        context.answer(&collect(&deployment, supervisor), human)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn human(status: &Status) -> String {
    let parts = [headline(status), safekeepers(status), pageservers(status), branches(status), notes(status)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn headline(status: &Status) -> String {
    match status.supervisor {
        Some(pid) => format!("up (process {pid})\n"),
        None => "down; `quire up` starts it\n".to_owned(),
    }
}

fn safekeepers(status: &Status) -> String {
    let mut table = Table::new(["SAFEKEEPER", "STATE", "ADDRESS", "TERM", "FLUSHED", "COMMITTED"]);
    for node in &status.safekeepers {
        let log = &node["branches"][0];
        let cells = [&node["node"], &node["state"], &node["address"], &log["term"], &log["flush"], &log["commit"]];
        table.row(cells.map(cell));
    }
    table.render()
}

fn pageservers(status: &Status) -> String {
    let mut table = Table::new(["PAGESERVER", "STATE", "ADDRESS", "INGESTED", "DURABLE"]);
    for node in &status.pageservers {
        let lsn = &node["branches"][0]["lsn"];
        table.row([&node["node"], &node["state"], &node["address"], &lsn["ingested"], &lsn["durable"]].map(cell));
    }
    table.render()
}

fn branches(status: &Status) -> String {
    let mut table = Table::new([
        "BRANCH",
        "COMPUTE",
        "COMMITTED",
        "CACHE",
        "PUSHDOWN",
        "IMAGES",
        "BACKLOG",
        "LONGEST CHAIN",
        "URL",
    ]);
    for branch in &status.branches {
        let (compute, images) = (&branch["compute"], &branch["images"]);
        table.row([
            cell(&branch["name"]),
            cell(&compute["state"]),
            cell(&branch["lsn"]["committed"]),
            cache(&compute["cache"]),
            cell(&branch["pushdown"]["state"]),
            cell(&images["made"]),
            cell(&images["backlog_pages"]),
            format!("{} of {}", cell(&images["longest_chain"]), cell(&images["max_deltas"])),
            cell(&compute["url"]),
        ]);
    }
    table.render()
}

/// How full a bounded cache is.
fn cache(cache: &Value) -> String {
    let mebibytes = |value: &Value| value.as_u64().map(|bytes| bytes >> 20);
    match (mebibytes(&cache["bytes"]), mebibytes(&cache["limit"])) {
        (Some(bytes), Some(limit)) => format!("{bytes} of {limit} MiB"),
        _ => "unbounded".into(),
    }
}

/// What somebody has to know or do.
fn notes(status: &Status) -> String {
    let mut notes = Vec::new();
    let quorum = &status.quorum;
    if quorum.state == "lost" && status.supervisor.is_some() {
        notes.push(format!(
            "The quorum is lost: {} of {} safekeepers answer. Commits wait until a majority is back.",
            quorum.up, quorum.of
        ));
    }
    notes.extend(troubles_of_nodes(status));
    for branch in &status.branches {
        notes.extend(throttle(branch));
        if branch["compute"]["quorum_lost"] == true && quorum.state == "ok" {
            notes.push(format!("Branch {}: its compute has lost the quorum; commits wait.", cell(&branch["name"])));
        }
        notes.extend(server_note(branch));
        notes.extend(mismatch_note(branch));
        let compute = &branch["compute"];
        for error in [&branch["error"], &compute["error"], &compute["settings_rejected"], &compute["outdated"]]
            .into_iter()
            .filter_map(Value::as_str)
        {
            notes.push(format!("Branch {}: {error}", cell(&branch["name"])));
        }
    }
    notes.join("\n")
}

/// Logs that cannot be used, and what it means that a pageserver is away.
fn troubles_of_nodes(status: &Status) -> Vec<String> {
    let mut notes = Vec::new();
    for node in &status.safekeepers {
        let errors = node["branches"].as_array().into_iter().flatten().filter_map(|log| log["error"].as_str());
        notes.extend(errors.map(|error| format!("Safekeeper {}: {error}", cell(&node["node"]))));
    }
    let down = status.pageservers.iter().filter(|node| node["state"] == "down" && status.supervisor.is_some());
    notes.extend(down.map(|node| {
        let node = cell(&node["node"]);
        format!(
            "Pageserver {node} does not answer. Reads of uncached pages wait; commits continue until --max-lag is reached."
        )
    }));
    notes
}

/// Who holds commits back.
fn throttle(branch: &Value) -> Option<String> {
    let throttle = &branch["compute"]["throttle"];
    let component = match throttle["component"].as_str()? {
        "ingest" => "pageserver's ingest",
        other => other,
    };
    let how = if throttle["holds"] == true { "are blocked" } else { "are slowed down" };
    let mebibytes = |value: &Value| value.as_u64().unwrap_or_default() >> 20;
    let (lag, limit) = (mebibytes(&throttle["lag_bytes"]), mebibytes(&throttle["limit_bytes"]));
    let name = cell(&branch["name"]);
    Some(format!("Branch {name}: Commits {how}: the {component} is {lag} MiB behind (limit {limit} MiB)"))
}

/// A server with which redo was not compared, and what has been compared since it runs.
fn server_note(branch: &Value) -> Option<String> {
    let server = &branch["compute"]["server"];
    let (name, doubt) = (cell(&branch["name"]), server["doubt"].as_str()?);
    if branch["verification"]["rate"] == 0 {
        return Some(format!(
            "Branch {name}: {doubt}; nothing that it writes is compared, because of --verify-rate 0."
        ));
    }
    let wanted = cell(&server["wanted"]);
    let counts = server["compared"].as_object().into_iter().flatten();
    let counts: Vec<String> = counts.map(|(kind, pages)| format!("{kind} {pages}")).collect();
    let so_far = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    Some(format!(
        "Branch {name}: {doubt}; every page that it writes is compared until {wanted} of each kind were equal. So far: {so_far}."
    ))
}

/// Pages that differ from storage's, now or as evidence that somebody has to look at.
fn mismatch_note(branch: &Value) -> Option<String> {
    let found = &branch["verification"];
    let (mismatches, kept) = (found["mismatches"].as_u64()?, found["kept"].as_u64()?);
    let guarded: Vec<&str> = found["guarded"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    (mismatches > 0 || kept > 0 || !guarded.is_empty()).then(|| {
        format!(
            "Branch {}: pages that PostgreSQL wrote differ from storage's ({mismatches} since the agent started); pushdown is {}. \
            Diagnostics for {kept} pages are in {}; inspect one with `quire page replay`, and please report it.{}",
            cell(&branch["name"]),
            cell(&branch["pushdown"]["state"]),
            cell(&found["evidence"]),
            guard_note(&guarded),
        )
    })
}

fn guard_note(guarded: &[&str]) -> String {
    if guarded.is_empty() {
        return String::new();
    }
    format!(
        " Under guard, kept as PostgreSQL writes them: {}. To end that, write the relation anew: REINDEX an index, VACUUM FULL a table.",
        guarded.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::Deployment;
    use serde_json::json;

    #[test]
    fn pages_that_differ_are_told_until_their_evidence_is_removed() {
        let branch = |mismatches, kept| {
            let found = json!({ "mismatches": mismatches, "kept": kept, "evidence": "/e/main" });
            json!({ "name": "main", "pushdown": { "state": "off" }, "verification": found })
        };
        assert_eq!(mismatch_note(&branch(0, 0)), None);
        assert_eq!(mismatch_note(&json!({ "name": "main", "verification": {} })), None);
        let guarded = json!({ "mismatches": 0, "kept": 0, "guarded": ["base/5/16384"] });
        let note = mismatch_note(&json!({ "name": "main", "verification": guarded })).expect("told");
        assert!(note.contains("base/5/16384") && note.contains("REINDEX"), "{note}");
        for (mismatches, kept) in [(1, 0), (0, 1)] {
            let note = mismatch_note(&branch(mismatches, kept)).expect("told");
            assert!(note.contains("/e/main") && note.contains("pushdown is off"), "{note}");
        }
    }

    #[test]
    fn a_server_that_was_not_tested_is_told_with_what_was_compared() {
        let branch = |doubt: Value, rate| {
            let compared = json!({ "Btree": 12, "Heap": 1000 });
            let server = json!({ "version": "15.99", "doubt": doubt, "compared": compared, "wanted": 1000 });
            json!({ "name": "main", "compute": { "server": server }, "verification": { "rate": rate } })
        };
        assert_eq!(server_note(&branch(Value::Null, 20)), None);
        assert_eq!(server_note(&json!({ "name": "main", "compute": { "server": null } })), None);
        let told = server_note(&branch("it is new".into(), 20)).expect("told");
        assert!(
            told.contains("it is new") && told.contains("until 1000") && told.contains("Btree 12, Heap 1000"),
            "{told}"
        );
        let told = server_note(&branch("it is new".into(), 0)).expect("told");
        assert!(told.contains("nothing") && told.contains("--verify-rate 0"), "{told}");
    }

    #[test]
    fn lost_quorum_is_said_in_words() {
        let deployment = Deployment::new("/bin".into(), 3, 1).expect("new");
        let text = human(&collect(&deployment, Some(1)));
        assert!(text.contains("quorum is lost: 0 of 3"), "{text}");
        let stopped = human(&collect(&deployment, None));
        assert!(stopped.starts_with("down;") && !stopped.contains("quorum"), "{stopped}");
    }
}
