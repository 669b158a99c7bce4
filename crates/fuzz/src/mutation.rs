//! Random changes of seeds, for runs without a fuzzer: the same seed of the generator gives the same changes.

/// Bytes that are bounds of something more often than others.
const BOUNDS: [u8; 8] = [0, 1, 2, 4, 0x7F, 0x80, 0xFE, 0xFF];

/// Longest run of bytes that one change inserts, removes or copies.
const RUN_BYTES_MAX: usize = 64;

/// A source of random numbers (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A source that gives the same numbers each time; `seed` may be anything.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0).checked_rem(bound).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        match self.below(2) {
            0 => BOUNDS[self.below(BOUNDS.len())],
            _ => u8::try_from(self.below(256)).unwrap_or(0),
        }
    }
}

/// A changed copy of one of the seeds, sometimes with an end from another.
pub fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut changed = pick(seeds, random);
    if random.below(8) == 0 {
        let other = pick(seeds, random);
        changed.truncate(random.below(changed.len() + 1));
        changed.extend_from_slice(&other[random.below(other.len() + 1)..]);
    }
    for _ in 0..=random.below(4) {
        change(&mut changed, random);
    }
    changed
}

fn pick(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    seeds.get(random.below(seeds.len())).cloned().unwrap_or_default()
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = position(bytes.len(), random);
    let run = 1 + random.below(RUN_BYTES_MAX).min(bytes.len() - at);
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..bytes.len().min(at + run))),
        2 => drop(bytes.splice(at..at, vec![random.byte(); run])),
        3 => bytes.extend_from_within(at..bytes.len().min(at + run)),
        4 => fill(bytes, at, 2, random),
        5 => fill(bytes, at, 4, random),
        _ => fill(bytes, at, 1, random),
    }
}

/// Anywhere, but near the ends more often, because headers and main data are there.
fn position(length: usize, random: &mut Random) -> usize {
    let near = random.below(length.min(100) + 1);
    match random.below(3) {
        0 => near,
        1 => length - near,
        _ => random.below(length + 1),
    }
}

fn fill(bytes: &mut [u8], at: usize, count: usize, random: &mut Random) {
    for byte in bytes.iter_mut().skip(at).take(count) {
        *byte = random.byte();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_generator_gives_the_same_changes_and_another_gives_others() {
        let seeds = [vec![1; 50], vec![2; 200], Vec::new()];
        let run = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(&seeds, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
