//! The processes of a dev cluster and their names.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A role, in the order in which a cluster is stopped: who uses another goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    Gateway,
    StorageNode,
    ClusterManager,
}

impl Role {
    /// All of them, in the order in which a cluster is stopped.
    pub(crate) const ALL: [Role; 3] = [Role::Gateway, Role::StorageNode, Role::ClusterManager];

    /// The name of the role, and of its subcommand.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::StorageNode => "storage-node",
            Role::ClusterManager => "cluster-manager",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no role, or no process of one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected <role>-<n>, for example storage-node-2, cluster-manager-1 or gateway-1")]
pub(crate) struct MemberError;

impl FromStr for Role {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or(MemberError)
    }
}

/// One process: `storage-node-2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Member {
    pub(crate) role: Role,
    /// From 1.
    pub(crate) n: u32,
}

impl Member {
    pub(crate) const fn new(role: Role, n: u32) -> Self {
        Self { role, n }
    }

    /// Its name within the cluster, as `quoin node list` and `quoin status` show it.
    pub(crate) fn name(self) -> String {
        match self.role {
            Role::Gateway => format!("gateway-{}", self.n),
            Role::StorageNode => format!("node-{}", self.n),
            Role::ClusterManager => format!("manager-{}", self.n),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.role, self.n)
    }
}

impl FromStr for Member {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, n) = text.rsplit_once('-').ok_or(MemberError)?;
        let n = n.parse().ok().filter(|n| *n > 0).ok_or(MemberError)?;
        Ok(Self { role: role.parse()?, n })
    }
}

/// The roles whose processes are started again when they die.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RespawnRoles(Vec<Role>);

impl RespawnRoles {
    pub(crate) fn contains(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}

impl FromStr for RespawnRoles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => return Ok(Self(Role::ALL.to_vec())),
            "none" => return Ok(Self(Vec::new())),
            _ => {}
        }
        let roles = text.split(',').map(|role| role.trim().parse());
        roles.collect::<Result<_, MemberError>>().map(Self).map_err(|_| {
            "expected `all`, `none`, or a list of gateway, cluster-manager, storage-node".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_by_role_and_number() {
        for (text, member) in [
            ("storage-node-2", Member::new(Role::StorageNode, 2)),
            ("cluster-manager-1", Member::new(Role::ClusterManager, 1)),
            ("gateway-1", Member::new(Role::Gateway, 1)),
        ] {
            assert_eq!(text.parse(), Ok(member));
            assert_eq!(member.to_string(), text);
        }
        for text in ["", "gateway", "gateway-0", "gateway-x", "node-1", "storage-node-", "-1"] {
            assert_eq!(text.parse::<Member>(), Err(MemberError), "{text}");
        }
        assert_eq!(Member::new(Role::StorageNode, 2).name(), "node-2");
    }

    #[test]
    fn respawn_names_roles() {
        let default: RespawnRoles = "gateway,cluster-manager".parse().unwrap();
        assert!(default.contains(Role::Gateway) && !default.contains(Role::StorageNode));
        assert!("all".parse::<RespawnRoles>().unwrap().contains(Role::StorageNode));
        assert!(!"none".parse::<RespawnRoles>().unwrap().contains(Role::Gateway));
        assert!("gateway,disk".parse::<RespawnRoles>().is_err());
    }
}
