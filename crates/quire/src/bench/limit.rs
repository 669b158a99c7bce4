//! What limits a measurement: the component that could do the least, if about that much was done.

use serde::Serialize;

/// From which part of what a component could do at most the measurement is taken to be limited by that: clients that
/// wait for each answer leave everybody idle for a while.
const REACHED: f64 = 0.75;

/// More than this part of a side's processors used by others, and nothing can be said.
const FOREIGN_MAX: f64 = 0.1;

/// What one side did with its processors, in parts of their time.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Side {
    /// Used by the processes that are measured.
    pub used: f64,
    /// Used by others and by the kernel for no process.
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
    /// The pageserver.
    Pageserver,
    /// The agent.
    Agent,
    /// Neither: both could have done much more.
    Neither,
    /// Other programs used too much of the processors for anything to be said.
    Disturbed,
}

/// Pages a second.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// What came through the compute.
    pub reached: f64,
    /// What the pageserver gives those who ask it directly.
    pub pageserver_max: f64,
    /// What the agent could pass on.
    pub agent_max: f64,
}

/// Judges. `sides` are the processors on which all of this went on.
pub fn judge(rates: Rates, sides: [Side; 2]) -> Limit {
    let Rates { reached, pageserver_max, agent_max } = rates;
    if sides.iter().any(|side| side.foreign > FOREIGN_MAX) {
        Limit::Disturbed
    } else if reached < REACHED * pageserver_max.min(agent_max) {
        Limit::Neither
    } else if pageserver_max <= agent_max {
        Limit::Pageserver
    } else {
        Limit::Agent
    }
}

impl Limit {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Pageserver => "The pageserver limits cold random reads, and not the agent",
            Limit::Agent => "The agent limits cold random reads",
            Limit::Neither => "Neither the pageserver nor the agent limits cold random reads",
            Limit::Disturbed => "What limits cold random reads cannot be said, as other programs used the CPUs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: [Side; 2] = [Side { used: 0.8, foreign: 0.02 }; 2];

    fn rates(reached: f64, pageserver_max: f64, agent_max: f64) -> Rates {
        Rates { reached, pageserver_max, agent_max }
    }

    #[test]
    fn who_could_do_the_least_is_the_limit_if_that_much_was_done() {
        assert_eq!(judge(rates(80.0, 100.0, 150.0), CALM), Limit::Pageserver);
        assert_eq!(judge(rates(80.0, 150.0, 100.0), CALM), Limit::Agent);
        assert_eq!(judge(rates(60.0, 100.0, 150.0), CALM), Limit::Neither);
        assert_eq!(judge(rates(60.0, 150.0, 100.0), CALM), Limit::Neither);
    }

    #[test]
    fn nothing_is_said_where_others_used_the_processors() {
        let disturbed = Side::new(0.5, 0.7);
        assert_eq!(judge(rates(80.0, 100.0, 150.0), [CALM[0], disturbed]), Limit::Disturbed);
        assert_eq!(judge(rates(80.0, 100.0, 150.0), [disturbed, CALM[1]]), Limit::Disturbed);
    }
}
