//! Hash tables whose order depends on what was done to them and on nothing else, so that a run can be repeated exactly.
//!
//! Their keys are numbers that we give, or that the cluster manager gives; none is chosen by somebody who might look for
//! collisions. Where that is not so, use the standard library's tables.

use foldhash::fast::FixedState;

/// A hash map with a fixed seed.
pub type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;
/// A hash set with a fixed seed.
pub type HashSet<T> = std::collections::HashSet<T, FixedState>;
