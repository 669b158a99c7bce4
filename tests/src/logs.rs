//! What the roles have logged.

use crate::Quire;
use std::fs;
use std::path::Path;

impl Quire {
    /// The log of a role, such as `pageserver-1`; nothing if there is none.
    pub fn log(&self, role: &str) -> String {
        read(&self.dir().join(format!("log/{role}.log")))
    }

    /// The log of the compute's PostgreSQL, as far as the present data directory has one.
    pub fn postgres_log(&self) -> String {
        let folder = self.dir().join("compute/main/pgdata/log");
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|entry| read(&entry.path())).collect()
    }

    /// Expects that no thread of any role has panicked.
    pub fn expect_no_panic(&self) {
        let files = fs::read_dir(self.dir().join("log")).expect("the logs are there").flatten();
        for path in files.map(|entry| entry.path()) {
            let text = read(&path);
            let line = text.lines().find(|line| line.contains("panicked"));
            assert_eq!(line, None, "{}", path.display());
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
