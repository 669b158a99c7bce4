//! `quire verify`

use crate::context::Context;
use crate::roles::Role;
use crate::table::{Table, cell};
use anyhow::Result;
use quire_api::compute::{VERIFY, Verification};
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

impl Args {
    /// Has the agent compare and prints what it found.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let branch = context.branch(self.branch.as_deref())?;
        let found: Verification = Role::Compute(branch).peer().post(VERIFY, &(), TIMEOUT)?;
        context.answer(&found, human)?;
        Ok(if found.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn human(found: &Verification) -> String {
    let counts = format!(
        "{} pages compared, {} absent in the cache, {} never in storage: ",
        found.checked, found.absent, found.skipped
    );
    if found.mismatches.is_empty() {
        return counts + "no mismatch";
    }
    let mut table = Table::new(["RELATION", "BLOCK", "CACHE LSN", "STORAGE LSN", "FIRST DIFFERENCE"]);
    for page in found.mismatches.iter().take(PAGES_SHOWN) {
        table.row([
            page.relation.clone(),
            page.block.to_string(),
            page.cache_lsn.to_string(),
            cell(page.storage_lsn),
            cell(page.first_difference),
        ]);
    }
    format!("{counts}{} mismatches\n{}", found.mismatches.len(), table.render())
}
