//! A storage node with an empty disk, and what is to be on it.

mod assignments;

pub(crate) use assignments::assignment;
use quoin_disk::{Dir, MemDir};
use quoin_replication::Timing;
use quoin_storage_node::node::{Limits, Node, NodeIdentity};
use quoin_store::{Engine, Identity, Options};
use quoin_types::{BootId, ClusterId, DiskId, EXTENT_BYTES, Moment, NodeId};
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Its disk has room for so many extents; nothing goes on in the background.
pub(crate) fn node(extents: u64) -> Node {
    let disk = DiskId([1; 16]);
    let dir: Arc<dyn Dir> = Arc::new(MemDir::new());
    let identity = Identity { cluster: CLUSTER, disk, capacity_bytes: extents * EXTENT_BYTES };
    Engine::format(dir.as_ref(), &identity).unwrap();
    let boot = BootId([1; 16]);
    let options = Options { journal_file_bytes: 64 << 10, journal_files: 4, reserve_bytes: 0 };
    let (engine, opened) = Engine::open(dir, None, boot, options).unwrap();
    let identity = NodeIdentity { cluster: CLUSTER, node: NodeId(1), disk, boot };
    let limits = Limits {
        resync_bytes_per_second: None,
        scrub_bytes_per_second: None,
        scrub_interval: Duration::ZERO,
    };
    Node::new(identity, engine, &opened, limits, Timing::default(), Moment::ZERO).unwrap()
}
