//! Which faults a run may have.

use crate::faults::Kind;
use crate::random::Random;
use crate::scenario_file::{Bounds, ScenarioFile};
use std::path::Path;

/// What a run is drawn from.
#[derive(Clone, Debug)]
pub struct Scenario {
    name: String,
    /// Numbers of replicas, as often as they are likely.
    pub(crate) replicas: Vec<usize>,
    weights: Vec<(Kind, u64)>,
    /// What a file says that runs are made of.
    pub(crate) bounds: Bounds,
}

/// Everything, each kind on or off in a run, so that some runs are full of one kind and others lack it.
const DEFAULT: [(Kind, u64); 27] = [
    (Kind::BreakConnections, 12),
    (Kind::Partition, 8),
    (Kind::OneWayPartition, 6),
    (Kind::IsolateNode, 6),
    (Kind::SlowLink, 6),
    (Kind::KillNode, 10),
    (Kind::KillGateway, 4),
    (Kind::PowerNode, 8),
    (Kind::PowerGateway, 2),
    (Kind::PauseNode, 8),
    (Kind::PauseGateway, 5),
    (Kind::HangDisk, 6),
    (Kind::SlowDisk, 5),
    (Kind::FailDisk, 3),
    (Kind::FailSyncs, 3),
    (Kind::TakeOver, 5),
    (Kind::AttachRace, 2),
    (Kind::SplitTakeOver, 4),
    (Kind::ManagersAway, 4),
    (Kind::KillAll, 2),
    (Kind::KillManager, 4),
    (Kind::PowerManager, 3),
    (Kind::PauseManager, 3),
    (Kind::CutManager, 3),
    (Kind::Reconfigure, 8),
    (Kind::Snapshot, 6),
    (Kind::Resize, 2),
];

const POWER: [(Kind, u64); 7] = [
    (Kind::PowerNode, 10),
    (Kind::PowerGateway, 4),
    (Kind::PowerAllNodes, 3),
    (Kind::PowerEverything, 2),
    (Kind::KillNode, 4),
    (Kind::TakeOver, 2),
    (Kind::BreakConnections, 4),
];

/// The families of faults by themselves.
const FAMILIES: [(&str, &[Kind]); 20] = [
    ("calm", &[]),
    (
        "network",
        &[Kind::BreakConnections, Kind::Partition, Kind::OneWayPartition, Kind::IsolateNode, Kind::SlowLink],
    ),
    ("crashes", &[Kind::KillNode, Kind::KillGateway, Kind::KillAll]),
    ("pauses", &[Kind::PauseNode, Kind::PauseGateway, Kind::HangDisk, Kind::SlowDisk]),
    (
        "disks",
        &[Kind::HangDisk, Kind::SlowDisk, Kind::FailDisk, Kind::FailSyncs, Kind::KillNode, Kind::PowerNode],
    ),
    (
        "takeovers",
        &[
            Kind::TakeOver,
            Kind::AttachRace,
            Kind::SplitTakeOver,
            Kind::PauseGateway,
            Kind::KillGateway,
            Kind::BreakConnections,
        ],
    ),
    (
        "managers",
        &[
            Kind::ManagersAway,
            Kind::KillManager,
            Kind::PowerManager,
            Kind::PauseManager,
            Kind::CutManager,
            Kind::TakeOver,
            Kind::OneWayPartition,
        ],
    ),
    (
        "changes",
        &[
            Kind::Reconfigure,
            Kind::Reconfigure,
            Kind::Snapshot,
            Kind::Resize,
            Kind::KillNode,
            Kind::CutManager,
            Kind::TakeOver,
            Kind::BreakConnections,
        ],
    ),
    (
        "replacements",
        &[
            Kind::LoseManager,
            Kind::LoseManager,
            Kind::KillManager,
            Kind::PowerManager,
            Kind::PauseManager,
            Kind::ManagersAway,
            Kind::TakeOver,
            Kind::Reconfigure,
            Kind::KillNode,
        ],
    ),
    (
        "wipes",
        &[
            Kind::Wipe,
            Kind::Wipe,
            Kind::Reconfigure,
            Kind::Snapshot,
            Kind::Resize,
            Kind::KillNode,
            Kind::PowerNode,
            Kind::TakeOver,
            Kind::KillManager,
            Kind::BreakConnections,
        ],
    ),
    (
        "rollbacks",
        &[
            Kind::RollBack,
            Kind::RollBack,
            Kind::RollBack,
            Kind::KillNode,
            Kind::KillNode,
            Kind::PowerNode,
            Kind::Reconfigure,
            Kind::TakeOver,
            Kind::KillManager,
            Kind::BreakConnections,
        ],
    ),
    (
        "full",
        &[
            Kind::FillFilesystem,
            Kind::FillFilesystem,
            Kind::KillNode,
            Kind::PowerNode,
            Kind::KillGateway,
            Kind::TakeOver,
            Kind::BreakConnections,
            Kind::SlowDisk,
        ],
    ),
    (
        "snapshots",
        &[
            Kind::Snapshot,
            Kind::Snapshot,
            Kind::Snapshot,
            Kind::TakeOver,
            Kind::KillGateway,
            Kind::BreakConnections,
            Kind::KillNode,
            Kind::PauseNode,
            Kind::Reconfigure,
        ],
    ),
    ("trouble", &[Kind::TroubleOne]),
    (
        "stewards",
        &[
            Kind::Leave,
            Kind::Leave,
            Kind::KillNode,
            Kind::PowerNode,
            Kind::KillGateway,
            Kind::Reconfigure,
            Kind::Snapshot,
            Kind::CutManager,
            Kind::BreakConnections,
        ],
    ),
    (
        "shrink",
        &[
            Kind::LoseNode,
            Kind::PowerNode,
            Kind::KillNode,
            Kind::KillGateway,
            Kind::TakeOver,
            Kind::Reconfigure,
            Kind::BreakConnections,
        ],
    ),
    ("outages", &[Kind::PowerAllNodes, Kind::PowerAllNodes, Kind::PowerNode, Kind::BreakConnections]),
    ("tails", &[Kind::RotTail, Kind::RotTail, Kind::Snapshot, Kind::SlowDisk]),
    (
        "rot",
        &[
            Kind::Rot,
            Kind::Rot,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::BreakConnections,
            Kind::KillGateway,
            Kind::TakeOver,
        ],
    ),
    (
        MOMENTS,
        &[
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::AtMoment,
            Kind::Reconfigure,
            Kind::TakeOver,
            Kind::KillNode,
            Kind::PowerNode,
        ],
    ),
];

/// The scenario whose runs are about moments, and how many times as long clients wait there between their requests: several
/// things have to happen one after the other.
const MOMENTS: &str = "moments";
const SLOWER: u64 = 6;

impl Scenario {
    /// By its name.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let weights: Vec<(Kind, u64)> = match name {
            "default" => {
                let mut weights = DEFAULT.to_vec();
                weights.push((Kind::PowerAllNodes, 1));
                weights
            }
            "power" => POWER.to_vec(),
            name => match FAMILIES.iter().find(|(family, _)| *family == name) {
                Some((_, kinds)) => kinds.iter().map(|kind| (*kind, 4)).collect(),
                None => {
                    return Err(format!(
                        "there is no scenario {name}; there are {}",
                        Self::names().join(", ")
                    ));
                }
            },
        };
        let replicas = match name {
            "rot" | "tails" | "wipes" | "rollbacks" | "trouble" => vec![3, 3, 5],
            "shrink" => vec![2],
            _ => vec![1, 2, 3, 3, 3, 3, 3, 5],
        };
        Ok(Self { name: name.into(), replicas, weights, bounds: Bounds::default() })
    }

    /// By its name, or by the path of a file, which ends with `.toml`.
    ///
    /// # Errors
    /// With the names that there are, or what is wrong with the file.
    pub fn find(name: &str) -> Result<Self, String> {
        let path = Path::new(name);
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Self::named(name);
        }
        let ScenarioFile { faults, setup: mut bounds } = ScenarioFile::read(path)?;
        let replicas = match std::mem::take(&mut bounds.replicas) {
            none if none.is_empty() => Self::named("calm")?.replicas,
            some => some,
        };
        let weights = faults.into_iter().filter(|(_, weight)| *weight > 0).collect();
        Ok(Self { name: name.into(), replicas, weights, bounds })
    }

    /// All names.
    pub fn names() -> Vec<&'static str> {
        let families = FAMILIES.iter().map(|(name, _)| *name);
        ["default", "power"].into_iter().chain(families).collect()
    }

    /// Whether the clients want more than the disks hold.
    pub(crate) fn fills(&self) -> bool {
        self.weights.iter().any(|(kind, _)| *kind == Kind::FillFilesystem)
    }

    /// Whether one storage node is in trouble, and all others are well.
    pub(crate) fn troubles_one(&self) -> bool {
        self.weights.iter().any(|(kind, _)| *kind == Kind::TroubleOne)
            && self.weights.iter().all(|(kind, _)| matches!(kind, Kind::TroubleOne))
    }

    /// Whether bits may flip: then every disk is scrubbed.
    pub(crate) fn has_rot(&self) -> bool {
        self.weights.iter().any(|(kind, _)| *kind == Kind::Rot)
    }

    /// Whether snapshots may be taken: they need space.
    pub(crate) fn has_snapshots(&self) -> bool {
        self.weights.iter().any(|(kind, _)| *kind == Kind::Snapshot)
    }

    /// Whether there is but one gateway, so that nobody comes for what it alone remembers (rule W2).
    pub(crate) fn has_one_gateway(&self) -> bool {
        self.name == "outages"
    }

    /// Whether one of two copies is to be gone on with (rule C3).
    pub(crate) fn may_shrink(&self) -> bool {
        self.weights.iter().any(|(kind, _)| *kind == Kind::LoseNode)
    }

    /// Nodes beyond those that are needed: where copies that are lost can be made anew.
    pub(crate) fn spares(&self) -> usize {
        usize::from(self.weights.iter().any(|(kind, _)| kind.loses_disks()) || self.name == MOMENTS)
    }

    /// How many times as long clients wait between their requests.
    pub(crate) fn slowness(&self) -> u64 {
        if self.name == MOMENTS { SLOWER } else { 1 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A seed's choice, as a list to pick from.
    pub(crate) fn draw_faults(&self, random: &mut Random) -> Vec<Kind> {
        let mut faults = Vec::new();
        for (kind, weight) in &self.weights {
            let weight = random.pick(&[0, *weight, *weight, 3 * weight]);
            faults.extend((0..weight).map(|_| *kind));
        }
        if faults.is_empty() {
            faults.extend(self.weights.first().map(|(kind, _)| *kind));
        }
        faults
    }
}
