//! What every command is given: the directory, and how to answer.

use crate::deployment::{Branch, Deployment};
use crate::home::Home;
use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// The branch that is meant where none is named.
pub const FIRST_BRANCH: &str = "main";

/// The global options of a command.
pub struct Context {
    /// The directory named by `--dir`.
    pub home: Home,
    /// Whether to answer in JSON.
    pub json: bool,
}

impl Context {
    /// What is known of this directory; an error that says how to begin if nothing is.
    pub fn deployment(&self) -> Result<Deployment> {
        let root = self.home.root().display();
        let deployment = Deployment::load(&self.home)?;
        deployment.with_context(|| format!("there is no Quire in {root}; start one with `quire up --dir {root}`"))
    }

    /// A branch by name, `main` if none is given.
    pub fn branch(&self, name: Option<&str>) -> Result<Branch> {
        let deployment = self.deployment()?;
        let name = name.unwrap_or(FIRST_BRANCH);
        match deployment
            .branches
            .iter()
            .find(|branch| (branch.project, branch.name.as_str()) == (deployment.project(), name))
        {
            Some(branch) => Ok(branch.clone()),
            None if deployment.branches.is_empty() => bail!("no branch exists yet; `quire up` creates the branch main"),
            None => bail!("there is no branch {name:?}; `quire status` lists those that exist"),
        }
    }

    /// Prints an answer: the value under `--json`, else the text made of it.
    pub fn answer<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value)?)
        } else {
            println!("{}", human(value).trim_end())
        }
        Ok(())
    }
}
