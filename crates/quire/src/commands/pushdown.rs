//! `quire pushdown`

use crate::context::Context;
use crate::deployment::{Branch, Deployment};
use crate::roles::Role;
use crate::status::stored_branch;
use crate::table::cell;
use anyhow::{Context as _, Result};
use quire_api::compute::{self, Phase};
use quire_api::pageserver::{ImageStatus, ImageThresholds, OpenShard, PushdownState, SETTINGS};
use quire_api::parse_bytes;
use quire_types::Lsn;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// A reload, a record through the quorum, and storage that has read it.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(60);

const NO_ANSWER: &str = "the pageserver does not answer or does not have the branch; see `quire status`";

/// Turn image generation pushdown on or off (on: full_page_writes=off, storage creates page images)
///
/// Switching is live: no restart, no failed transaction. Storage bounds the deltas of every page in both states.
#[derive(clap::Subcommand, Debug)]
#[command(
    after_help = "Examples:\n  quire pushdown on\n  quire pushdown status --json\n  quire pushdown set main --max-deltas 32 --max-bytes 16384"
)]
pub enum Command {
    /// PostgreSQL stops writing full page images into its WAL
    On(Args),
    /// PostgreSQL writes full page images again
    Off(Args),
    /// Show the state, since which LSN, and what image generation does
    Status(Args),
    /// Change when storage makes an image of a page
    Set(Bounds),
}

/// Which branch.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The branch [default: main]
    branch: Option<String>,
}

/// The most that may be between two images of a page.
#[derive(clap::Args, Debug)]
pub struct Bounds {
    /// The branch
    branch: String,

    /// Create a page image after N WAL records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "max_bytes")]
    max_deltas: Option<u32>,

    /// Create a page image after this many bytes of WAL records, e.g. 16KiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
}

/// The answer to `quire pushdown status`.
#[derive(Serialize)]
struct Shown {
    branch: String,
    state: PushdownState,
    since_lsn: Option<Lsn>,
    images: ImageStatus,
}

impl Command {
    /// Switches, shows or sets.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::On(args) => switch(context, &context.branch(args.branch.as_deref())?, true)?,
            Command::Off(args) => switch(context, &context.branch(args.branch.as_deref())?, false)?,
            Command::Status(args) => show(context, &context.branch(args.branch.as_deref())?)?,
            Command::Set(bounds) => set(context, bounds)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The agent answers once storage has seen it in the WAL.
fn switch(context: &Context, branch: &Branch, on: bool) -> Result<()> {
    let agent = Role::Compute(branch.clone()).peer();
    let compute: compute::Status = agent.post(compute::PUSHDOWN, &compute::Pushdown { on }, SWITCH_TIMEOUT)?;
    if compute.state != Phase::Running {
        eprintln!("quire: the compute is {}; this takes effect when it starts", compute.state);
    }
    show(context, branch)
}

fn show(context: &Context, branch: &Branch) -> Result<()> {
    let deployment = context.deployment()?;
    let OpenShard { pushdown, images, .. } = open_shard(&deployment, branch)?;
    let shown = Shown { branch: branch.name.clone(), state: pushdown.state, since_lsn: pushdown.since_lsn, images };
    context.answer(&shown, human)
}

/// What storage has of a branch.
fn open_shard(deployment: &Deployment, branch: &Branch) -> Result<OpenShard> {
    let stored = stored_branch(deployment, branch).context(NO_ANSWER)?;
    let error = stored.error.unwrap_or_else(|| NO_ANSWER.to_owned());
    stored.open.with_context(|| error)
}

fn human(shown: &Shown) -> String {
    let images = &shown.images;
    format!(
        "{} since {}\nimages made {}, backlog {} pages, longest chain {} of {} deltas, at most {} bytes",
        shown.state.name(),
        cell(shown.since_lsn),
        images.made,
        images.backlog_pages,
        images.longest_chain,
        images.thresholds.max_deltas,
        images.thresholds.max_bytes,
    )
}

fn set(context: &Context, bounds: &Bounds) -> Result<()> {
    let branch = context.branch(Some(&bounds.branch))?;
    let deployment = context.deployment()?;
    let now = open_shard(&deployment, &branch)?.images.thresholds;
    let thresholds = ImageThresholds {
        max_deltas: bounds.max_deltas.unwrap_or(now.max_deltas),
        max_bytes: bounds.max_bytes.unwrap_or(now.max_bytes),
    };
    let path = format!("{SETTINGS}?project={}&branch={}", branch.project, branch.id);
    for node in &deployment.pageservers {
        Role::Pageserver(node.clone()).peer().put(&path, &thresholds)?;
    }
    show(context, &branch)
}
