//! Many random lives of a quorum, each made by its seed alone.
//!
//! Proposers come, go and overlap; acceptors crash and lose what was not flushed; connections break and leave old
//! messages behind. After every step [`checker`] looks at all that was ever promised. In the end the world calms down,
//! and one proposer must bring all logs into agreement and commit.
//!
//! `QUIRE_SEED=7` runs one seed, `QUIRE_SEEDS=100000` the first so many.

mod checker;
mod disk;
mod random;
mod record;
mod world;

use checker::Violation;
use world::{Sabotage, World};

const STEPS: usize = 2_000;
const CALM_STEPS: usize = 4_000;
const SEEDS: u64 = 2_000;
const UNSETTLED: &str = "the world does not settle";

fn live(world: &mut World) -> Result<(), Violation> {
    for _ in 0..STEPS {
        world.step()?;
    }
    world.calm_down()?;
    for _ in 0..CALM_STEPS {
        world.calm_step()?;
        if world.is_settled() {
            return Ok(());
        }
    }
    Err(UNSETTLED.into())
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

#[test]
fn every_promise_holds_in_every_life() {
    let one = number_from_environment("QUIRE_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number_from_environment("QUIRE_SEEDS").unwrap_or(SEEDS),
    };
    let (mut committed, mut elections, count) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let mut world = World::new(seed, Sabotage::None);
        if let Err(violation) = live(&mut world) {
            panic!("seed {seed}: {violation} (QUIRE_SEED={seed} replays it)");
        }
        committed += world.checker.committed_bytes();
        elections += world.elections;
    }
    println!("{count} seeds: {elections} elections, {committed} bytes committed");
    assert!(one.is_some() || elections > 3 * count, "the lives are too dull: {elections} elections in {count}");
    assert!(one.is_some() || committed as u64 > 1_000 * count, "the lives are too dull: {committed} bytes in {count}");
}

#[test]
fn the_same_seed_makes_the_same_life() {
    let trace = |seed| {
        let mut world = World::new(seed, Sabotage::None);
        live(&mut world).expect("a good life");
        world.trace()
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn every_broken_rule_is_noticed() {
    let sabotages =
        [Sabotage::AnswerBeforeFlush, Sabotage::ForgetVotes, Sabotage::KeepDivergentTail, Sabotage::CountAnyTerm];
    for sabotage in sabotages {
        let broken_promise = |seed| live(&mut World::new(seed, sabotage)).err().filter(|why| why != UNSETTLED);
        let noticed = (0..SEEDS).find_map(|seed| broken_promise(seed).map(|why| (seed, why)));
        let (seed, why) = noticed.unwrap_or_else(|| panic!("nobody noticed {sabotage:?}"));
        println!("{sabotage:?} is noticed with seed {seed}: {why}");
    }
}
