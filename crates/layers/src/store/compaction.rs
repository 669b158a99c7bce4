//! Merging runs, so that a read has few to visit.
//!
//! Flushed memtables are runs of tier 0. Eight neighbours of one tier are merged into a run of the next, which makes
//! about eight times the runs of a read into one at the price of writing each version once more: a branch of N flushes
//! has at most seven runs in each of log8(N) tiers. Nothing is dropped but what a newer run has at the same place.

use super::Store;
use super::tables::Run;
use crate::accounts::Carry;
use crate::error::StorageError;
use crate::layer::{Layer, LayerWriter, Merge, Stream};
use crate::manifest::LayerId;
use crate::value::{Place, Version};
use quire_types::Key;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

/// Runs of one tier that are merged into one of the next.
pub const FAN_IN: usize = 8;

/// Which runs to merge, given the tiers of all, oldest first: the oldest `FAN_IN` neighbours of the lowest tier that
/// has as many; none if no tier has.
pub fn choose_runs(tiers: &[u8]) -> Option<Range<usize>> {
    let windows = tiers.windows(FAN_IN).enumerate();
    let equal = windows.filter(|(_, window)| window.iter().all(|tier| *tier == window[0]));
    equal.min_by_key(|(start, window)| (window[0], *start)).map(|(start, _)| start..start + FAN_IN)
}

type MergedVersions = Peekable<Merge<(Key, Version), (Key, Place)>>;
type MergedCarries = Peekable<Merge<Carry, Key>>;

impl Store {
    /// Merges some runs, if it is time to; says whether it was. One compaction runs at a time, beside flushes.
    pub fn compact(&self) -> Result<bool, StorageError> {
        let _one_at_a_time = self.compacting.lock();
        let runs = Arc::clone(&self.read().runs);
        let tiers: Vec<u8> = runs.iter().map(|run| run.tier).collect();
        let Some(chosen) = choose_runs(&tiers) else { return Ok(false) };
        self.check_not_failed()?;
        let inputs = &runs[chosen.clone()];
        let layers = self.write_merged(inputs)?;
        let merged = Run { tier: tiers[chosen.start].saturating_add(1), layers };
        let ids: Vec<LayerId> = merged.ids().collect();
        self.adopt_merged(chosen, merged).inspect_err(|_| self.discard(ids))?;
        self.remove_merged(inputs)?;
        Ok(true)
    }

    /// Flushes append runs meanwhile, so the positions of the chosen ones have not changed.
    fn adopt_merged(&self, chosen: Range<usize>, merged: Run) -> Result<(), StorageError> {
        let _publishing = self.change_manifest(|manifest| {
            manifest.runs.splice(chosen.clone(), [merged.entry()]);
        })?;
        let mut tables = self.write();
        let mut runs = Vec::clone(&tables.runs);
        runs.splice(chosen, [merged]);
        tables.runs = Arc::new(runs);
        Ok(())
    }

    /// After an error, which may be of one of the inputs, nothing of it is left.
    fn write_merged(&self, inputs: &[Run]) -> Result<Vec<(LayerId, Arc<Layer>)>, StorageError> {
        let mut layers = Vec::new();
        let written = self.write_merged_layers(inputs, &mut layers);
        let written = self.note_unsettled(written).inspect_err(|_| self.discard(layers.iter().map(|(id, _)| *id)));
        written.map(|()| layers)
    }

    fn write_merged_layers(&self, inputs: &[Run], layers: &mut Vec<(LayerId, Arc<Layer>)>) -> Result<(), StorageError> {
        let mut versions = merge_versions(inputs);
        let mut carries = merge_carries(inputs);
        while versions.peek().is_some() {
            let id = self.next_layer();
            self.write_merged_layer(id, &mut versions, &mut carries)?;
            layers.push((id, self.layers.open(id, &self.cache)?));
        }
        Ok(())
    }

    fn write_merged_layer(
        &self,
        id: LayerId,
        versions: &mut MergedVersions,
        carries: &mut MergedCarries,
    ) -> Result<(), StorageError> {
        let mut writer = self.layers.create(id)?;
        while let Some(entry) = versions.next_if(|entry| self.belongs(&writer, entry)) {
            let (key, version) = entry?;
            self.check_not_failed()?;
            writer.add(key, &version)?;
        }
        let last = writer.last_key();
        let within = |carry: &Result<Carry, StorageError>| carry.as_ref().map_or(true, |carry| Some(carry.key) <= last);
        writer.finish(std::iter::from_fn(|| carries.next_if(within)))?;
        Ok(())
    }

    /// The layers of merged runs go once no manifest names them; reads that are under way keep them open. What cannot
    /// be removed now is removed at the next open.
    fn remove_merged(&self, inputs: &[Run]) -> Result<(), StorageError> {
        inputs.iter().flat_map(Run::ids).try_for_each(|id| self.layers.remove(id))
    }

    /// Layers of a run have no key in common, so one is closed only where the key changes.
    fn belongs(&self, writer: &LayerWriter, entry: &Result<(Key, Version), StorageError>) -> bool {
        let same_key = entry.as_ref().is_ok_and(|(key, _)| writer.last_key() == Some(*key));
        same_key || writer.written() < self.layer_bytes
    }
}

fn merge_versions(inputs: &[Run]) -> MergedVersions {
    let stream = |run: &Run| -> Stream<(Key, Version)> {
        let layers: Vec<_> = run.layers.iter().map(|(_, layer)| Arc::clone(layer)).collect();
        Box::new(layers.into_iter().flat_map(|layer| layer.entries()))
    };
    // Two pages at one place are an image and, in a newer run, the page as PostgreSQL wrote it.
    let at = |(key, version): &(Key, Version)| (*key, version.place());
    Merge::new(inputs.iter().map(stream).collect(), at, |_, newer| newer).peekable()
}

fn merge_carries(inputs: &[Run]) -> MergedCarries {
    let stream = |run: &Run| -> Stream<Carry> {
        let layers: Vec<_> = run.layers.iter().map(|(_, layer)| Arc::clone(layer)).collect();
        Box::new(layers.into_iter().flat_map(|layer| layer.carries()))
    };
    Merge::new(inputs.iter().map(stream).collect(), |carry| carry.key, |_, newer| newer).peekable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_neighbours_of_the_lowest_tier_are_merged() {
        assert_eq!(choose_runs(&[0; 7]), None);
        assert_eq!(choose_runs(&[0; 9]), Some(0..8));
        assert_eq!(choose_runs(&[2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Some(3..11));
        let mut tiers = vec![1; 8];
        tiers.extend([0; 8]);
        assert_eq!(choose_runs(&tiers), Some(8..16));
    }

    #[test]
    fn the_number_of_runs_stays_logarithmic() {
        let mut tiers = Vec::new();
        for _ in 0..5000 {
            tiers.push(0);
            while let Some(chosen) = choose_runs(&tiers) {
                let tier = tiers[chosen.start] + 1;
                tiers.splice(chosen, [tier]);
            }
            assert!(tiers.len() <= 7 * 5, "{tiers:?}");
        }
    }
}
