//! The bounds within which everything is explored. Each set leaves out what the others have.
//!
//! A gateway that ends is one that nothing is delivered to any more, and a node that is down likewise: every run with
//! such a fault is there without it. So is a storage node that hangs.

use crate::state::Ask::{Durable, Flush, Read, Write};
use crate::state::{Bounds, Faults};
use quoin_types::Durability;

const NONE: Faults =
    Faults { breaks: 0, crashes: 0, powers: 0, powers_of_all: 0, pulls: 0, ticks: 0, heartbeats: [0, 0] };

const ALL: u8 = 0b111;
const FIRST_TWO: u8 = 0b011;
const LAST_TWO: u8 = 0b110;

/// One write, and another gateway with one more.
const TAKE_OVER: Bounds = Bounds {
    name: "",
    asks: [&[Write(0)], &[Write(0)]],
    served: true,
    takeover: true,
    reach: [ALL, LAST_TWO],
    durability: Durability::Flush,
    retained_bytes_max: 1 << 20,
    hedged: false,
    lossy_at_once: false,
    faults: NONE,
};

/// Some seconds even without optimization.
pub(crate) const SMALL: [Bounds; 13] = [
    Bounds { name: "two attach at once", served: false, asks: [&[], &[Write(0)]], ..TAKE_OVER },
    Bounds {
        name: "one attaches and writes, another attaches",
        served: false,
        asks: [&[Write(0)], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        ..TAKE_OVER
    },
    Bounds {
        name: "writes to the same block and to another, and a takeover",
        asks: [&[Write(0), Write(1)], &[Write(0)]],
        ..TAKE_OVER
    },
    Bounds {
        name: "a crash and a takeover",
        asks: [&[Write(0)], &[]],
        faults: Faults { crashes: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a session breaks, and a takeover",
        asks: [&[Write(0)], &[]],
        faults: Faults { breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a lease, a restart and a takeover",
        asks: [&[Read(0)], &[Write(0)]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { crashes: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a lease ends",
        asks: [&[Read(0)], &[Write(0)]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { ticks: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "reads among writes",
        takeover: false,
        asks: [&[Write(0), Read(0), Write(0)], &[]],
        reach: [FIRST_TWO, 0],
        hedged: true,
        faults: Faults { breaks: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "resync of one that lags",
        takeover: false,
        retained_bytes_max: 0,
        asks: [&[Write(0), Write(1)], &[]],
        faults: Faults { breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "one loses power, and a takeover",
        asks: [&[Write(0)], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { powers: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "all lose power",
        lossy_at_once: true,
        asks: [&[Durable(0)], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { powers_of_all: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds { name: "a takeover that reaches all", reach: [ALL, ALL], ..TAKE_OVER },
    Bounds {
        name: "reads while one catches up",
        takeover: false,
        retained_bytes_max: 0,
        asks: [&[Write(0), Write(0), Read(0)], &[]],
        faults: Faults { breaks: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
];

/// More of everything: for an optimized build.
pub(crate) const LARGE: [Bounds; 15] = [
    Bounds {
        name: "one attaches and writes, another attaches and reaches all",
        served: false,
        asks: [&[Write(0)], &[]],
        ..TAKE_OVER
    },
    Bounds {
        name: "three writes and a takeover",
        asks: [&[Write(0), Write(1), Write(0)], &[Write(0)]],
        ..TAKE_OVER
    },
    Bounds {
        name: "a crash, and a takeover that writes",
        asks: [&[Write(0), Write(0)], &[Write(0)]],
        faults: Faults { crashes: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a session breaks, and a takeover that writes",
        faults: Faults { breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a session breaks between two writes, and a takeover",
        asks: [&[Write(0), Write(1)], &[]],
        faults: Faults { breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a crash, a broken session and a takeover",
        asks: [&[Write(0)], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { crashes: 1, breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "resync of one that lags, with crashes",
        takeover: false,
        retained_bytes_max: 0,
        asks: [&[Write(0), Write(1), Write(0)], &[]],
        faults: Faults { breaks: 1, crashes: 1, pulls: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "resync of one that lags, and a takeover",
        retained_bytes_max: 0,
        asks: [&[Write(0), Write(1)], &[]],
        faults: Faults { breaks: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a lease, and a takeover that writes",
        asks: [&[Write(0), Read(0)], &[Write(0)]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { ticks: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "a lease, a restart, and a takeover that reaches others",
        asks: [&[Read(0)], &[Write(0)]],
        faults: Faults { crashes: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "reads on both sides of a takeover",
        asks: [&[Write(0), Read(0)], &[Read(0)]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { ticks: 1, heartbeats: [1, 1], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "reads among writes to all",
        takeover: false,
        asks: [&[Write(0), Read(0), Write(0), Read(0)], &[]],
        faults: Faults { breaks: 1, heartbeats: [1, 0], ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "one of three loses power, and a takeover",
        asks: [&[Write(0)], &[]],
        faults: Faults { powers: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "all lose power after a flush",
        lossy_at_once: true,
        asks: [&[Write(0), Flush], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { powers_of_all: 1, ..NONE },
        ..TAKE_OVER
    },
    Bounds {
        name: "all lose power in write-through mode",
        lossy_at_once: true,
        durability: Durability::WriteThrough,
        asks: [&[Write(0), Write(1)], &[]],
        reach: [FIRST_TWO, LAST_TWO],
        faults: Faults { powers_of_all: 1, ..NONE },
        ..TAKE_OVER
    },
];
