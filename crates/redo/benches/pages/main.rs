//! How long a page takes to rebuild from what storage keeps of it.
//!
//! Before anything is measured, a PostgreSQL server makes the records (see [`chains`]) and its files are compared with
//! the pages that redo arrives at. Measured is then what a read of the pageserver does once it has found the stored
//! versions: a fresh page or a copy of the image, then every delta decoded and applied, in one thread.
//!
//! Figures of a virtual machine with two cores of an AMD EPYC (Zen 5), medians, beside those that the authors of Neon
//! publish for their redo process behind a pipe with one client (`pageserver/benches/bench_walredo.rs`, an EC2
//! `im4gn.2xlarge`, Graviton2). The machines differ, so the ratios say the order of magnitude and no more.
//!
//! | chain | here | Neon | ratio |
//! |---|---|---|---|
//! | `image_and_one_insert` | 0.17 us | 31.8 us (an image and one or two records) | 187 |
//! | `page_of_227_inserts` | 13.6 us | 138.6 us (227 records) | 10 |
//! | `leaf_with_100_inserts` | 6.5 us | | |
//! | `page_with_100_hot_updates`, 7 prunings | 9.5 us | | |
//!
//! An empty round trip to Neon's process takes 21.9 us; a call here takes none.

mod chains;
#[path = "../../tests/oracle/cluster.rs"]
#[expect(dead_code, reason = "shared with the oracle, which needs more of it")]
mod cluster;

use anyhow::Result;
use chains::{Chain, Chains};
use divan::{Bencher, black_box};
use std::sync::OnceLock;

static CHAINS: OnceLock<Chains> = OnceLock::new();

fn main() -> Result<()> {
    let chains = Chains::make()?;
    for (name, chain) in chains.named() {
        println!("{name}: {chain}");
    }
    CHAINS.get_or_init(|| chains);
    divan::main();
    Ok(())
}

fn rebuild(bencher: Bencher<'_, '_>, chain: fn(&Chains) -> &Chain) {
    let chain = chain(CHAINS.get().expect("main made the chains"));
    bencher.bench_local(|| black_box(chain).rebuild().expect("the chain was rebuilt before"));
}

#[divan::bench]
fn image_and_one_insert(bencher: Bencher<'_, '_>) {
    rebuild(bencher, |chains| &chains.image_and_one_insert);
}

#[divan::bench]
fn page_of_227_inserts(bencher: Bencher<'_, '_>) {
    rebuild(bencher, |chains| &chains.page_of_227_inserts);
}

#[divan::bench]
fn leaf_with_100_inserts(bencher: Bencher<'_, '_>) {
    rebuild(bencher, |chains| &chains.leaf_with_100_inserts);
}

#[divan::bench]
fn page_with_100_hot_updates(bencher: Bencher<'_, '_>) {
    rebuild(bencher, |chains| &chains.page_with_100_hot_updates);
}
