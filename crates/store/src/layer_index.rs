//! Which layers may keep an extent, told for sixteen layers at once: so that looking from an old snapshot does not ask each
//! of a thousand younger ones.

use crate::format::entry::Layer;
use crate::pool::{CHUNK_ENTRIES, bit};
use quoin_types::ExtentIndex;
use quoin_types::collections::HashMap;

/// Layers whose numbers are neighbours are told of together.
const GROUP_LAYERS: u32 = 16;

/// By chunk of a segment: for each group of layers, in their order, the extents that any of them keeps, or once kept.
#[derive(Default)]
pub(crate) struct LayerIndex {
    chunks: HashMap<u32, Vec<(u32, u128)>>,
}

impl LayerIndex {
    /// The layer keeps the extent from now on.
    pub(crate) fn add(&mut self, layer: Layer, extent: ExtentIndex) {
        let (group, bit) = (layer.0 / GROUP_LAYERS, bit(extent));
        let groups = self.chunks.entry(extent.0 / CHUNK_ENTRIES).or_default();
        match groups.binary_search_by_key(&group, |(group, _)| *group) {
            Ok(index) => groups[index].1 |= bit,
            Err(index) => groups.insert(index, (group, bit)),
        }
    }

    /// Ranges of layers, from this one on, among which some may keep the extent. Others do not.
    pub(crate) fn may_keep(
        &self,
        from: Layer,
        extent: ExtentIndex,
    ) -> impl Iterator<Item = std::ops::Range<Layer>> {
        let groups = self.chunks.get(&(extent.0 / CHUNK_ENTRIES)).map(Vec::as_slice).unwrap_or_default();
        let first = groups.partition_point(|(group, _)| *group < from.0 / GROUP_LAYERS);
        let found = groups[first..].iter().filter(move |(_, mask)| mask & bit(extent) != 0);
        found.map(move |(group, _)| {
            let start = group * GROUP_LAYERS;
            from.max(Layer(start))..Layer(start + GROUP_LAYERS)
        })
    }

    /// No layer of this one's group is there any more.
    pub(crate) fn forget_group_of(&mut self, layer: Layer) {
        self.chunks.retain(|_, groups| {
            groups.retain(|(group, _)| *group != layer.0 / GROUP_LAYERS);
            !groups.is_empty()
        });
    }

    /// The layers that are told of together with this one.
    pub(crate) fn group_of(layer: Layer) -> std::ops::Range<Layer> {
        let start = layer.0 / GROUP_LAYERS * GROUP_LAYERS;
        Layer(start)..Layer(start + GROUP_LAYERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_from_it_and_from_older_ones() {
        let mut index = LayerIndex::default();
        let (one, other) = (ExtentIndex(5), ExtentIndex(5 + CHUNK_ENTRIES));
        for layer in [40, 3, 41, 200] {
            index.add(Layer(layer), one);
        }
        index.add(Layer(60), other);
        let found = |from, extent| -> Vec<(u32, u32)> {
            index.may_keep(Layer(from), extent).map(|range| (range.start.0, range.end.0)).collect()
        };
        assert_eq!(found(1, one), [(1, 16), (32, 48), (192, 208)]);
        assert_eq!(found(41, one), [(41, 48), (192, 208)]);
        assert_eq!(found(201, one), [(201, 208)]);
        assert_eq!(found(1, other), [(48, 64)]);
        assert_eq!(found(1, ExtentIndex(6)), []);
        index.forget_group_of(Layer(33));
        let found: Vec<u32> = index.may_keep(Layer(1), one).map(|range| range.start.0).collect();
        assert_eq!(found, [1, 192]);
    }
}
