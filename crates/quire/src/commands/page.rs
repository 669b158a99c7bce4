//! `quire page`

use crate::context::Context;
use crate::deployment::Branch;
use crate::roles::Role;
use crate::sql::Session;
use crate::table::{Table, cell};
use anyhow::{Context as _, Result};
use quire_api::pageserver::{HOT, HotPage, PAGE, PageChain};
use quire_compute::evidence::{self, About, Evidence};
use quire_types::{DataFileName, Fork, Lsn, RelTag};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs of bytes that differ shown to people; `--json` has all.
const DIFFERENCES_SHOWN: usize = 40;

/// Look at stored pages
#[derive(clap::Subcommand, Debug)]
#[command(
    after_help = "Examples:\n  quire page show main pgbench_accounts 0\n  quire page show main pg_class 3 --at 0/2A4F3B8 --json\n  quire page hot main\n  quire page replay .quire/evidence/main/base_5_16384-0-0_2A4F3B8"
)]
pub enum Command {
    /// Show how one page is stored: its last image and the deltas since
    Show(Show),
    /// Show the pages with the most deltas since their last image
    Hot(Hot),
    /// Replay a mismatching page's WAL offline and show the first difference; exits 1 if one remains
    Replay(Replay),
}

/// Which page, and when.
#[derive(clap::Args, Debug)]
pub struct Show {
    /// The branch
    branch: String,

    /// The relation, as in SQL: name or schema.name
    relation: String,

    /// The block, from 0
    block: u32,

    /// The LSN to look at [default: the newest]
    #[arg(long, value_name = "LSN")]
    at: Option<Lsn>,

    /// The database the relation is in
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    database: String,

    /// The fork of the relation
    #[arg(long, default_value = "main")]
    fork: ForkName,
}

/// A fork as `pg_relation_size` calls it.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ForkName {
    Main,
    Vm,
    Init,
}

/// Which branch.
#[derive(clap::Args, Debug)]
pub struct Hot {
    /// The branch [default: main]
    branch: Option<String>,
}

/// Which evidence.
#[derive(clap::Args, Debug)]
pub struct Replay {
    /// The directory with the page and its chain, as `quire status` names it
    evidence: PathBuf,
}

impl Command {
    /// Asks the pageserver, or reads evidence.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::Show(args) => args.run(context)?,
            Command::Hot(args) => args.run(context)?,
            Command::Replay(args) => return args.run(context),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    fn run(&self, context: &Context) -> Result<()> {
        let branch = context.branch(Some(&self.branch))?;
        let rel = resolve(&branch, &self.database, &self.relation)?;
        let mut query = format!(
            "{PAGE}?{}&tablespace={}&database={}&relation={}&fork={}&block={}",
            branch_query(&branch),
            rel.tablespace,
            rel.database,
            rel.relation,
            self.fork,
            self.block
        );
        if let Some(at) = self.at {
            query.push_str(&format!("&lsn={at}"));
        }
        let page: PageChain = ask_pageserver(context, &query)?;
        context.answer(&page, |page| {
            format!("{} block {} ({rel}, {} fork)\n{}", self.relation, self.block, self.fork, chain(page))
        })
    }
}

impl Hot {
    fn run(&self, context: &Context) -> Result<()> {
        let branch = context.branch(self.branch.as_deref())?;
        let pages: Vec<HotPage> = ask_pageserver(context, &format!("{HOT}?{}", branch_query(&branch)))?;
        context.answer(&pages, |pages| hot_table(pages))
    }
}

impl Replay {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let evidence = Evidence::load(&self.evidence).context("this is no evidence of a page that differs")?;
        let replay = evidence.replay();
        let answer = json!({ "about": evidence.about, "equal": replay.is_equal(), "replay": replay });
        context.answer(&answer, |_| replayed(&evidence.about, &replay))?;
        Ok(if replay.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl fmt::Display for ForkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ForkName::Main => "main",
            ForkName::Vm => "vm",
            ForkName::Init => "init",
        })
    }
}

fn branch_query(branch: &Branch) -> String {
    format!("project={}&branch={}", branch.project, branch.id)
}

fn ask_pageserver<T: DeserializeOwned>(context: &Context, path: &str) -> Result<T> {
    let deployment = context.deployment()?;
    let node = deployment.pageservers.first().context("this directory has no pageserver")?;
    Role::Pageserver(node.clone()).peer().get(path)
}

/// What a read at that LSN would apply, newest last.
fn chain(page: &PageChain) -> String {
    let image = cell(page.image_lsn);
    let text = format!(
        "at LSN    {}\nimage at  {image}\ndeltas    {}\nbytes     {}\n",
        page.lsn, page.deltas, page.delta_bytes
    );
    let mut table = Table::new(["LSN", "KIND", "BYTES"]);
    for version in &page.versions {
        table.row([version.lsn.to_string(), version.kind.clone(), version.bytes.to_string()]);
    }
    format!("{text}\n{}", table.render())
}

/// The steps, the bytes that differ in the end, and what to make of them.
fn replayed(about: &About, replay: &evidence::Replay) -> String {
    let name = |step: Option<usize>| match step.and_then(|step| replay.steps.get(step)) {
        Some(step) => format!("{} {}", step.lsn, step.what),
        None => "no step".to_owned(),
    };
    let mut steps = Table::new(["LSN", "STEP", "BYTES CHANGED", "BYTES THAT DIFFER"]);
    for step in &replay.steps {
        steps.row([step.lsn.to_string(), step.what.clone(), step.changed.to_string(), step.differ.to_string()]);
    }
    let mut bytes = Table::new(["OFFSET", "CACHE", "REPLAYED", "LAST WRITTEN BY"]);
    for difference in replay.differences.iter().take(DIFFERENCES_SHOWN) {
        let (cache, replayed) = (difference.cache.clone(), difference.replayed.clone());
        bytes.row([difference.offset.to_string(), cache, replayed, name(difference.step)]);
    }
    let page = format!("{} block {} at {}", about.relation, about.block, about.cache_lsn);
    let verdict = match &replay.failure {
        Some(reason) => format!("{page}: the replay failed: {reason}"),
        None if replay.is_equal() => format!("{page}: the replay makes the page that PostgreSQL wrote"),
        None => {
            format!(
                "{page}: first record after which the page stays different: {}\n\n{}",
                name(replay.first_step),
                bytes.render()
            )
        }
    };
    let stored = match replay.equals_storage {
        Some(false) => "\nThis is not the page that storage had made.",
        _ => "",
    };
    format!("{}\n{}{stored}", steps.render(), verdict.trim_end())
}

fn hot_table(pages: &[HotPage]) -> String {
    let mut table = Table::new(["PAGE", "DELTAS", "BYTES", "LAST CHANGE"]);
    for page in pages {
        let (deltas, bytes) = (page.deltas.to_string(), page.delta_bytes.to_string());
        table.row([page.page.clone(), deltas, bytes, page.last_lsn.to_string()]);
    }
    table.render()
}

/// The relation's place in storage, as the compute knows it.
fn resolve(branch: &Branch, database: &str, relation: &str) -> Result<RelTag> {
    let session = Session::connect(&branch.url_of(database))?;
    // The text form of the parameter keeps the client from asking for the type of a regclass.
    let path = session.text("SELECT pg_relation_filepath($1::text::regclass)", &[relation])?;
    let path = path.with_context(|| format!("{relation} has no storage; name a table, an index or a sequence"))?;
    rel_tag(&path).with_context(|| format!("{relation} is stored as {path:?}, which is no relation file"))
}

/// From the path of a main fork below the data directory.
fn rel_tag(path: &str) -> Option<RelTag> {
    match DataFileName::parse(path.as_bytes())? {
        DataFileName::Relation(file) if file.fork == Fork::Main && file.segment == 0 => Some(file.rel()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_paths_of_every_kind_of_tablespace_are_read() {
        let tag = |tablespace, database, relation| Some(RelTag { tablespace, database, relation, fork: Fork::Main });
        assert_eq!(rel_tag("global/1262"), tag(1664, 0, 1262));
        assert_eq!(rel_tag("base/5/16384"), tag(1663, 5, 16384));
        assert_eq!(rel_tag("pg_tblspc/16385/PG_15_202209061/5/16386"), tag(16385, 5, 16386));
        assert_eq!(rel_tag("base/5/t3_16384"), None);
        for path in ["base/5/16384_vm", "base/5/16384.1", "base/5", "pg_xact/0000"] {
            assert_eq!(rel_tag(path), None, "{path}");
        }
    }
}
