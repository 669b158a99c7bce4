//! All that a server holds, as text.

use crate::Quire;
use crate::processes::postgres_program;
use std::process::{Command, Stdio};

/// What `pg_dumpall` says, line by line, but for what may differ after a start from storage alone: rows of unlogged
/// tables, and where sequences are, because the log has their values ahead of their use.
#[derive(PartialEq, Eq)]
pub struct Dump(Vec<String>);

impl Dump {
    /// Takes one. Nobody may be changing anything.
    pub fn take(quire: &Quire) -> Dump {
        let mut command = Command::new(postgres_program("pg_dumpall"));
        command.arg("--no-unlogged-table-data").arg("--dbname").arg(quire.url("postgres")).stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|error| panic!("pg_dumpall: {error}"));
        assert!(output.status.success(), "pg_dumpall: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        // The last two carry a random word of each dump's own.
        let skipped = ["SELECT pg_catalog.setval(", "\\restrict ", "\\unrestrict "];
        let may_differ = |line: &str| skipped.iter().any(|start| line.starts_with(start));
        Dump(text.lines().filter(|line| !may_differ(line)).map(str::to_owned).collect())
    }

    /// How many lines it has.
    pub fn lines(&self) -> usize {
        self.0.len()
    }

    /// Expects a later one to be the same.
    pub fn expect_same(&self, later: &Dump) {
        let differs = self.0.iter().zip(&later.0).position(|(before, after)| before != after);
        if let Some(line) = differs {
            panic!("line {line} was {:?} and is {:?}", self.0[line], later.0[line]);
        }
        assert_eq!(self.lines(), later.lines());
    }
}
