//! `kill -9` of whatever a seeded generator picks, for as long as is wanted.

use crate::Quire;
use crate::processes::{children, of_folder, signal_all};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// The variable that repeats the choices of a run.
const SEED_VARIABLE: &str = "QUIRE_SEED";

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// Any child of the postmaster: a client's backend, the checkpointer, the WAL writer.
    Backend,
    /// PostgreSQL's first process.
    Postmaster,
    /// The compute's agent.
    Agent,
    /// The pageserver.
    Pageserver,
    /// One of the three safekeepers.
    Safekeeper(u8),
    /// Every process of the directory at once, the supervisor too.
    Everything,
}

/// Picks victims and pauses. The same seed picks the same ones; what the processes do in between is theirs.
pub struct Killer {
    random: StdRng,
}

impl Killer {
    /// A generator with the seed that `QUIRE_SEED` names, or a new one, which is printed.
    pub fn new(test: &str) -> Killer {
        let given = std::env::var(SEED_VARIABLE).ok();
        let seed = given.map_or_else(rand::random, |text| text.parse().expect("QUIRE_SEED is a number"));
        eprintln!("{test}: {SEED_VARIABLE}={seed} repeats these choices");
        Killer { random: StdRng::seed_from_u64(seed) }
    }

    /// Who is next.
    pub fn pick(&mut self) -> Victim {
        match self.random.random_range(0..12) {
            0..=2 => Victim::Backend,
            3 | 4 => Victim::Postmaster,
            5 | 6 => Victim::Agent,
            7 | 8 => Victim::Pageserver,
            9 | 10 => Victim::Safekeeper(self.random.random_range(1..=3)),
            _ => Victim::Everything,
        }
    }

    /// Whether the next blow falls before the last one is recovered from.
    pub fn is_impatient(&mut self) -> bool {
        self.random.random_range(0..3) == 0
    }

    /// How long the processes are let live.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(200..3000))
    }

    /// Kills. Who is not there, because it is just being started, is spared. After [`Victim::Everything`] nothing runs.
    pub async fn kill(&mut self, quire: &Quire, victim: Victim) {
        let role = |name: &str| of_folder(&quire.dir().join(format!("run/{name}.json")));
        let pids = match victim {
            Victim::Everything => return quire.kill_everything().await,
            Victim::Backend => postmaster(quire).map(children).unwrap_or_default(),
            Victim::Postmaster => postmaster(quire).into_iter().collect(),
            Victim::Agent => role("compute-main"),
            Victim::Pageserver => role("pageserver-1"),
            Victim::Safekeeper(node) => role(&format!("safekeeper-{node}")),
        };
        let chosen: Vec<i32> = pids.choose(&mut self.random).copied().into_iter().collect();
        signal_all(&chosen, Signal::SIGKILL);
    }
}

fn postmaster(quire: &Quire) -> Option<i32> {
    quire.branch()["compute"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
}
