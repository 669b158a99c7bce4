//! `quire status`

use crate::context::Context;
use crate::lock::{Holder, holder};
use crate::status::collect;
use crate::table::{Table, cell};
use anyhow::Result;
use quire_api::compute::{Cache, Component, Sampling};
use quire_api::deployment::{Branch, NodeState, Status};
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
        let log = node.branches.first().map(|log| &log.status);
        table.row([
            node.node.to_string(),
            node.state.name().to_owned(),
            node.address.to_string(),
            cell(log.map(|log| log.term.0)),
            cell(log.map(|log| log.flush)),
            cell(log.map(|log| log.commit)),
        ]);
    }
    table.render()
}

fn pageservers(status: &Status) -> String {
    let mut table = Table::new(["PAGESERVER", "STATE", "ADDRESS", "INGESTED", "DURABLE"]);
    for node in &status.pageservers {
        let lsn = node.branches.first().and_then(|shard| shard.status.lsn());
        table.row([
            node.node.to_string(),
            node.state.name().to_owned(),
            node.address.to_string(),
            cell(lsn.map(|lsn| lsn.ingested)),
            cell(lsn.map(|lsn| lsn.durable)),
        ]);
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
        let images = branch.images.as_ref();
        let longest = cell(images.map(|images| images.longest_chain));
        table.row([
            branch.name.clone(),
            branch.compute.state.name().to_owned(),
            cell(branch.lsn.committed),
            cache(branch.compute.cache.as_ref()),
            pushdown(branch),
            cell(images.map(|images| images.made)),
            cell(images.map(|images| images.backlog_pages)),
            format!("{longest} of {}", cell(images.map(|images| images.thresholds.max_deltas))),
            branch.compute.url.clone(),
        ]);
    }
    table.render()
}

fn pushdown(branch: &Branch) -> String {
    cell(branch.pushdown.state.map(|state| state.name()))
}

/// How full a bounded cache is.
fn cache(cache: Option<&Cache>) -> String {
    match cache.and_then(|cache| Some((cache.bytes?, cache.limit?))) {
        Some((bytes, limit)) => format!("{} of {} MiB", bytes >> 20, limit >> 20),
        None => "unbounded".into(),
    }
}

/// What an administrator has to know or do.
fn notes(status: &Status) -> String {
    let mut notes = Vec::new();
    let quorum = &status.quorum;
    if quorum.is_lost() && status.supervisor.is_some() {
        notes.push(format!(
            "The quorum is lost: {} of {} safekeepers answer. Commits wait until a majority is back.",
            quorum.up, quorum.of
        ));
    }
    notes.extend(notes_of_nodes(status));
    for branch in &status.branches {
        notes.extend(notes_of_branch(branch, quorum.is_lost()));
    }
    notes.join("\n")
}

/// Logs and shards that cannot be used, and what it means that a pageserver is away.
fn notes_of_nodes(status: &Status) -> Vec<String> {
    let mut notes = Vec::new();
    for node in &status.safekeepers {
        let errors = node.branches.iter().filter_map(|log| log.status.error.as_ref());
        notes.extend(errors.map(|error| format!("Safekeeper {}: {error}", node.node)));
    }
    let is_down = |state: NodeState| state == NodeState::Down && status.supervisor.is_some();
    let down = status.pageservers.iter().filter(|node| is_down(node.state));
    notes.extend(down.map(|node| {
        format!(
            "Pageserver {} does not answer. Reads of uncached pages wait; commits continue until --max-lag is reached.",
            node.node
        )
    }));
    notes
}

fn notes_of_branch(branch: &Branch, quorum_is_lost: bool) -> Vec<String> {
    let compute = &branch.compute;
    let lost = (compute.quorum_lost == Some(true) && !quorum_is_lost)
        .then(|| "its compute has lost the quorum; commits wait.".to_owned());
    let errors = [&branch.error, &compute.error, &compute.settings_rejected, &compute.outdated].into_iter().cloned();
    let notes = [throttle_note(branch), lost, server_note(branch), mismatch_note(branch)].into_iter().chain(errors);
    notes.flatten().map(|note| format!("Branch {}: {note}", branch.name)).collect()
}

/// What holds commits back.
fn throttle_note(branch: &Branch) -> Option<String> {
    let throttle = branch.compute.throttle.as_ref()?;
    let component = match throttle.component {
        Component::Ingest => "pageserver's ingest",
        Component::Pageserver => "pageserver",
    };
    let how = if throttle.holds { "are blocked" } else { "are slowed down" };
    let (lag, limit) = (throttle.lag_bytes >> 20, throttle.limit_bytes >> 20);
    Some(format!("Commits {how}: the {component} is {lag} MiB behind (limit {limit} MiB)"))
}

/// A server with which redo was not compared, and what has been compared since it runs.
fn server_note(branch: &Branch) -> Option<String> {
    let server = branch.compute.server.as_ref()?;
    let doubt = server.doubt.as_ref()?;
    if branch.verification.as_ref()?.rate == 0 {
        return Some(format!("{doubt}; nothing that it writes is compared, because of --verify-rate 0."));
    }
    let counts: Vec<String> = server.compared.iter().map(|(kind, pages)| format!("{kind} {pages}")).collect();
    let so_far = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    Some(format!(
        "{doubt}; every page that it writes is compared until {} of each kind were equal. So far: {so_far}.",
        server.wanted
    ))
}

/// Pages that differ from storage's, now or as evidence to look at.
fn mismatch_note(branch: &Branch) -> Option<String> {
    let Sampling { mismatches, kept, guarded, evidence, .. } = branch.verification.as_ref()?;
    (*mismatches > 0 || *kept > 0 || !guarded.is_empty()).then(|| {
        format!(
            "pages that PostgreSQL wrote differ from storage's ({mismatches} since the agent started); pushdown is {}. \
            Diagnostics for {kept} pages are in {}; inspect one with `quire page replay`, and please report it.{}",
            pushdown(branch),
            evidence.display(),
            guard_note(guarded),
        )
    })
}

fn guard_note(guarded: &[String]) -> String {
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
    use crate::ports::PortRange;
    use quire_api::compute::Server;
    use quire_api::deployment::{Compute, Positions, Pushdown};
    use quire_api::pageserver::PushdownState;
    use quire_types::{BranchId, Endpoint, ProjectId};

    fn sampling(rate: u32, mismatches: u64, kept: usize) -> Sampling {
        Sampling { rate, checked: 0, mismatches, evidence: "/e/main".into(), kept, guarded: Vec::new() }
    }

    fn branch(verification: Option<Sampling>) -> Branch {
        Branch {
            project: ProjectId::default(),
            name: "main".into(),
            id: BranchId::default(),
            compute: Compute::silent("postgresql://".into(), Endpoint::new("127.0.0.1", 1)),
            verification,
            pushdown: Pushdown { state: Some(PushdownState::Off), since_lsn: None },
            lsn: Positions::default(),
            images: None,
            error: None,
        }
    }

    #[test]
    fn pages_that_differ_are_told_until_their_evidence_is_removed() {
        assert_eq!(mismatch_note(&branch(Some(sampling(20, 0, 0)))), None);
        assert_eq!(mismatch_note(&branch(None)), None);
        let guarded = Sampling { guarded: vec!["base/5/16384".into()], ..sampling(20, 0, 0) };
        let note = mismatch_note(&branch(Some(guarded))).expect("told");
        assert!(note.contains("base/5/16384") && note.contains("REINDEX"), "{note}");
        for (mismatches, kept) in [(1, 0), (0, 1)] {
            let note = mismatch_note(&branch(Some(sampling(20, mismatches, kept)))).expect("told");
            assert!(note.contains("/e/main") && note.contains("pushdown is off"), "{note}");
        }
    }

    #[test]
    fn a_server_that_was_not_tested_is_told_with_what_was_compared() {
        let tested_by = |doubt: Option<&str>, rate| {
            let compared = [("Btree", 12), ("Heap", 1000)].map(|(kind, pages)| (kind.to_owned(), pages)).into();
            let server = Server { version: "15.99".into(), doubt: doubt.map(str::to_owned), compared, wanted: 1000 };
            let mut branch = branch(Some(sampling(rate, 0, 0)));
            branch.compute.server = Some(server);
            branch
        };
        assert_eq!(server_note(&tested_by(None, 20)), None);
        assert_eq!(server_note(&branch(None)), None);
        let told = server_note(&tested_by(Some("it is new"), 20)).expect("told");
        assert!(
            told.contains("it is new") && told.contains("until 1000") && told.contains("Btree 12, Heap 1000"),
            "{told}"
        );
        let told = server_note(&tested_by(Some("it is new"), 0)).expect("told");
        assert!(told.contains("nothing") && told.contains("--verify-rate 0"), "{told}");
    }

    #[test]
    fn lost_quorum_is_said_in_words() {
        let deployment = Deployment::new("/bin".into(), PortRange::default(), 3, 1).expect("new");
        let text = human(&collect(&deployment, Some(1)));
        assert!(text.contains("quorum is lost: 0 of 3"), "{text}");
        let stopped = human(&collect(&deployment, None));
        assert!(stopped.starts_with("down;") && !stopped.contains("quorum"), "{stopped}");
    }
}
