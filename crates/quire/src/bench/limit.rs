//! What limits a measurement whose two sides had processors of their own.

use serde::Serialize;

/// From which part of its processors' time on a side is taken to be busy all the time: the rest is the beginning, the end, and the
/// moments in which all clients happen to wait for the other side.
const FULL: f64 = 0.9;

/// More than this part of a side's processors used by others, and nothing can be said.
const FOREIGN_MAX: f64 = 0.1;

/// What one side did with its processors, in parts of their time.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Side {
    /// Used by the processes that are measured.
    pub used: f64,
    /// Used by others and by the kernel on nobody's behalf.
    pub foreign: f64,
}

impl Side {
    /// Of processors that were `busy` for a part of the time, with `used` for the processes that are measured.
    pub fn new(used: f64, busy: f64) -> Side {
        Side { used, foreign: (busy - used).max(0.0) }
    }
}

/// Who could not do more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The pageserver: its processors were full.
    Pageserver,
    /// The compute's side, and most of that was the agent.
    Agent,
    /// The compute's side, and most of that was PostgreSQL.
    Server,
    /// The compute's side, and most of that was the clients.
    Clients,
    /// No processor: waiting for each other, or for a disk.
    Waiting,
    /// Other programs used too much of the processors for anything to be said.
    Disturbed,
}

/// Processor time of those on the compute's side, in any unit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shares {
    /// The agent's.
    pub agent: f64,
    /// PostgreSQL's.
    pub server: f64,
    /// The clients'.
    pub clients: f64,
}

/// Judges. The fuller side is the limit, if it is full.
pub fn judge(pageserver: Side, compute: Side, shares: Shares) -> Limit {
    if pageserver.foreign.max(compute.foreign) > FOREIGN_MAX {
        return Limit::Disturbed;
    }
    match pageserver.used >= compute.used {
        _ if pageserver.used.max(compute.used) < FULL => Limit::Waiting,
        true => Limit::Pageserver,
        false => largest(shares),
    }
}

fn largest(Shares { agent, server, clients }: Shares) -> Limit {
    if agent >= server.max(clients) {
        Limit::Agent
    } else if server >= clients {
        Limit::Server
    } else {
        Limit::Clients
    }
}

impl Limit {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Pageserver => "The pageserver limits cold random reads, and not the agent",
            Limit::Agent => "The agent limits cold random reads",
            Limit::Server => "The compute's CPUs limit cold random reads, most of them PostgreSQL's work",
            Limit::Clients => "The clients limit this measurement of cold random reads",
            Limit::Waiting => "No CPU limits cold random reads",
            Limit::Disturbed => "What limits cold random reads cannot be said, as other programs used the CPUs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares { agent: 3.0, server: 2.0, clients: 1.0 };

    fn side(used: f64) -> Side {
        Side::new(used, used + 0.02)
    }

    #[test]
    fn the_fuller_side_is_the_limit_if_it_is_full() {
        assert_eq!(judge(side(0.97), side(0.7), SHARES), Limit::Pageserver);
        assert_eq!(judge(side(0.92), side(0.95), SHARES), Limit::Agent);
        assert_eq!(judge(side(0.8), side(0.7), SHARES), Limit::Waiting);
    }

    #[test]
    fn a_full_compute_is_put_down_to_who_used_most_of_it() {
        let judged = |agent, server, clients| judge(side(0.5), side(0.98), Shares { agent, server, clients });
        assert_eq!(judged(2.0, 1.0, 1.0), Limit::Agent);
        assert_eq!(judged(1.0, 2.0, 1.5), Limit::Server);
        assert_eq!(judged(1.0, 1.5, 2.0), Limit::Clients);
    }

    #[test]
    fn nothing_is_said_where_others_used_the_processors() {
        assert_eq!(judge(Side::new(0.8, 1.0), side(0.2), SHARES), Limit::Disturbed);
        assert_eq!(judge(side(0.98), Side::new(0.2, 0.4), SHARES), Limit::Disturbed);
    }
}
