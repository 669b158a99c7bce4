//! That another PostgreSQL is installed than the one that runs.

use serde::Serialize;

/// Two versions of one PostgreSQL, in its own words, such as `15.18 (Debian 15.18-0+deb12u1)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outdated {
    /// What runs.
    pub running: String,
    /// What the next start runs.
    pub installed: String,
}

impl Outdated {
    /// None if they are the same.
    pub(crate) fn new(running: &str, installed: &str) -> Option<Outdated> {
        let differ = running != installed;
        differ.then(|| Outdated { running: running.to_owned(), installed: installed.to_owned() })
    }

    /// What an administrator has to know and do. The numbers say it, unless only the packages differ.
    pub fn note(&self) -> String {
        let (running, installed) = match (number(&self.running), number(&self.installed)) {
            (running, installed) if running != installed => (running, installed),
            _ => (self.running.as_str(), self.installed.as_str()),
        };
        format!("PostgreSQL {running} is running, {installed} is installed: run `quire compute restart`")
    }
}

/// The number in a version.
fn number(version: &str) -> &str {
    version.split_whitespace().next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_numbers_or_if_they_are_the_same_the_packages() {
        assert_eq!(Outdated::new("15.18", "15.18"), None);
        let note = |running, installed| Outdated::new(running, installed).expect("they differ").note();
        assert_eq!(
            note("15.18 (Debian 15.18-0+deb12u1)", "15.20 (Debian 15.20-0+deb12u1)"),
            "PostgreSQL 15.18 is running, 15.20 is installed: run `quire compute restart`"
        );
        assert!(note("15.18 (Debian 1)", "15.18 (Debian 2)").contains("15.18 (Debian 1) is running, 15.18 (Debian 2)"));
    }
}
