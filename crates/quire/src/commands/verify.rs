//! `quire verify`

use crate::context::Context;
use crate::roles::Role;
use crate::table::{Table, cell};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// A whole cache is read and asked for.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Mismatches shown to people; `--json` has all.
const PAGES_SHOWN: usize = 20;

/// Compare every page in the compute's cache with storage; exit status 1 on a mismatch
///
/// A page that PostgreSQL changes at that moment is looked at again. What PostgreSQL does not log (hint bits and the
/// like) is masked.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  quire verify --json | jq .mismatches")]
pub struct Args {
    /// The branch [default: main]
    branch: Option<String>,
}

/// What the agent found; what is missing in its answer is an error, never "no mismatch".
#[derive(Serialize, Deserialize)]
struct Found {
    checked: u64,
    absent: u64,
    skipped: u64,
    mismatches: Vec<Value>,
}

impl Args {
    /// Has the agent compare and prints what it found.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let branch = context.branch(self.branch.as_deref())?;
        let found: Found = Role::Compute(branch).peer().post("/verify", &json!({}), TIMEOUT)?;
        context.answer(&found, human)?;
        Ok(if found.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn human(found: &Found) -> String {
    let counts = format!(
        "{} pages compared, {} absent in the cache, {} never in storage: ",
        found.checked, found.absent, found.skipped
    );
    if found.mismatches.is_empty() {
        return counts + "no mismatch";
    }
    let mut table = Table::new(["RELATION", "BLOCK", "CACHE LSN", "STORAGE LSN", "FIRST DIFFERENCE"]);
    for page in found.mismatches.iter().take(PAGES_SHOWN) {
        let fields = ["relation", "block", "cache_lsn", "storage_lsn", "first_difference"];
        table.row(fields.map(|field| cell(&page[field])));
    }
    format!("{counts}{} mismatches\n{}", found.mismatches.len(), table.render())
}
