//! Minor releases of PostgreSQL: the one that tests run on, and others that were put aside.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::postgres_program;

/// A release, such as 15.18, with its programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minor {
    /// What it calls itself.
    pub version: String,
    /// Where its programs are.
    pub programs: PathBuf,
}

impl Minor {
    /// The release whose programs are in a directory.
    pub fn of(programs: &Path) -> Minor {
        let output = Command::new(programs.join("postgres")).arg("--version").output().expect("postgres runs");
        let said = String::from_utf8(output.stdout).expect("text");
        let version = said.split_whitespace().nth(2).expect("a version").to_owned();
        Minor { version, programs: programs.to_owned() }
    }

    /// The one that tests run on.
    pub fn tested() -> Minor {
        Minor::of(postgres_program("postgres").parent().expect("a program is in a directory"))
    }

    /// A release that `scripts/postgres-minor.sh` has put aside, or that is installed; none if it is neither.
    pub fn aside(version: &str) -> Option<Minor> {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/postgres-minor").join(version);
        let aside = fs::read_to_string(cache.join("complete")).ok().map(|path| PathBuf::from(path.trim()));
        let candidates = aside.into_iter().chain(["/usr/lib/postgresql/15/bin".into()]);
        candidates
            .filter(|programs| programs.join("postgres").is_file())
            .map(|programs| Minor::of(&programs))
            .find(|minor| minor.version == version)
    }
}

/// A directory of links to the programs of a release, which can be exchanged for another's, as an upgrade of a package
/// does.
pub struct Installation(PathBuf);

impl Installation {
    /// A new one in `directory`, with these programs.
    pub fn new(directory: PathBuf, minor: &Minor) -> Installation {
        fs::create_dir_all(&directory).expect("made");
        let installation = Installation(directory);
        installation.install(minor);
        installation
    }

    /// What `--pg-bin` names.
    pub fn programs(&self) -> &str {
        self.0.to_str().expect("text")
    }

    /// Puts the programs of another release in the place of those that are there.
    pub fn install(&self, minor: &Minor) {
        for entry in fs::read_dir(&minor.programs).expect("listed").flatten() {
            let (aside, link) = (self.0.join(".new"), self.0.join(entry.file_name()));
            symlink(entry.path(), &aside).expect("linked");
            fs::rename(aside, link).expect("in place");
        }
    }
}
