//! Identifiers. Small ones are counters of the cluster manager and never reused; large ones are random.

use crate::hex;
use std::fmt;
use std::str::FromStr;

macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The id as bytes, for formats and messages.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Reads an id from a message. `None` unless it is exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = hex::HexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                hex::decode_16(text).map(Self)
            }
        }
    };
}

counted_id!(
    /// A volume: given by the cluster manager, never reused, so that a deleted volume cannot come back under a new name.
    VolumeId
);
counted_id!(
    /// One copy of one segment on one disk. Never reused: a wiped disk cannot answer for a replica it lost (rule C2).
    ReplicaId
);
counted_id!(
    /// A snapshot of a volume: given by the cluster manager, the same in all of the volume's replicas, never reused.
    SnapshotId
);
counted_id!(
    /// A storage node, which is one process on one disk.
    NodeId
);
counted_id!(
    /// A session between a gateway and a storage node: one TCP connection. Unique at the storage node (rule W3).
    SessionId
);

random_id!(
    /// The cluster. Written on every disk; a disk of another cluster is refused by name.
    ClusterId
);
random_id!(
    /// A formatted disk. A wiped disk gets a new one (rule C2).
    DiskId
);
random_id!(
    /// One process of a gateway, from start to exit (rule W4).
    InstanceId
);
random_id!(
    /// One boot of a kernel (`/proc/sys/kernel/random/boot_id`): tells a process crash from a loss of power (rule A2).
    BootId
);

/// The first bytes of a process's [`InstanceId`], which it writes on the disk that it opens: they tell its start from the start
/// of a copy of that disk, with the same number (rule C2). All zero: nobody has said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartMark(pub [u8; 8]);

impl StartMark {
    /// Whether two starts of one number may be one start: they are not if both are told, and differ.
    pub fn may_be(self, other: Self) -> bool {
        self == other || self == Self::default() || other == Self::default()
    }
}

impl From<InstanceId> for StartMark {
    fn from(instance: InstanceId) -> Self {
        let mut mark = [0; 8];
        mark.copy_from_slice(&instance.0[..8]);
        Self(mark)
    }
}

/// A gateway, by the name its operator gave it. At most 63 bytes: letters, digits, `-`, `.`, `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GatewayId(pub String);

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A segment: a fixed slice of a volume's address space, the unit of placement and replication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentId {
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// Its place in the volume, from 0.
    pub index: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.volume, self.index)
    }
}
