//! Panics that tests plant in a running role.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Names the file in which a test says where to panic: one line for each panic, the name of a point.
pub const VARIABLE: &str = "QUIRE_PANIC_AT";

static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();

fn file() -> Option<&'static PathBuf> {
    FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)).as_ref()
}

/// As [`plant`], of a point whose name takes some work.
pub fn plant_for(point: impl FnOnce() -> String) {
    if file().is_some() {
        plant(&point());
    }
}

/// Panics if the file says this point, which is taken out of it first. Without the variable, as always but in tests, it
/// is a look at memory.
pub fn plant(point: &str) {
    if let Some(file) = file() {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if let Some(at) = lines.iter().position(|line| *line == point) {
            let rest = [&lines[..at], &lines[at + 1..]].concat().join("\n");
            fs::write(file, rest).expect("the test's file is taken");
            panic!("planted at {point}");
        }
    }
}
