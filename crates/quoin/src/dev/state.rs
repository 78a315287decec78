//! `cluster.json`: what a dev cluster consists of. Written by its supervisor, read by every command that looks for one.

use super::layout::write_atomically;
use super::member::{Member, Role};
use crate::failure::Failure;
use quoin_types::Durability;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The version of the file. Another one is refused, not guessed at.
const FORMAT: u32 = 1;

/// A dev cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// The `quoin dev` that runs it; null when it is stopped.
    pub(crate) supervisor_pid: Option<u32>,
    /// Where the managers answer, `host:port` each.
    managers: Vec<String>,
    /// The volume that every dev cluster has.
    pub(crate) volume: String,
    /// `flush` or `write-through`.
    durability: String,
    /// How a client reaches the volume.
    uri: String,
    /// Every process.
    pub(crate) members: Vec<MemberState>,
}

/// One process of a dev cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MemberState {
    pub(crate) role: Role,
    pub(crate) n: u32,
    /// Its name within the cluster.
    pub(crate) name: String,
    /// Where it serves: gRPC, the data plane or NBD.
    pub(crate) listen: SocketAddr,
    /// Where it serves `/healthz`, `/readyz` and `/metrics`.
    pub(crate) admin: SocketAddr,
    /// Null when it does not run.
    pub(crate) pid: Option<u32>,
}

impl MemberState {
    pub(crate) fn new(member: Member, listen: SocketAddr, admin: SocketAddr) -> Self {
        Self { role: member.role, n: member.n, name: member.name(), listen, admin, pid: None }
    }

    pub(crate) fn member(&self) -> Member {
        Member::new(self.role, self.n)
    }
}

impl State {
    pub(crate) fn new(volume: &str, durability: Durability, members: Vec<MemberState>) -> Self {
        let mut state = Self {
            format: FORMAT,
            supervisor_pid: None,
            managers: Vec::new(),
            volume: volume.to_owned(),
            durability: durability.to_string(),
            uri: String::new(),
            members,
        };
        state.members.sort_by_key(|member| (std::cmp::Reverse(member.role), member.n));
        state.managers = state.of(Role::ClusterManager).map(|member| member.listen.to_string()).collect();
        state.uri = format!("nbd://{}/{volume}", reachable(state.gateway().listen));
        state
    }

    /// The state in `dir`; none if there is none.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join("cluster.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format_args!("read {}", path.display()), &error)),
        };
        let damaged = |reason: String| {
            Failure::failed(format!("{} is not understood: {reason}", path.display()))
                .hint("if its data may go: `quoin dev --reset`")
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if state.format != FORMAT {
            return Err(damaged(format!("format {}, this quoin writes {FORMAT}", state.format)));
        }
        if state.of(Role::Gateway).count() != 1 || state.managers.is_empty() {
            return Err(damaged("it names no gateway or no manager".to_owned()));
        }
        Ok(Some(state))
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("the state has string keys only");
        write_atomically(path, &format!("{text}\n"))
    }

    pub(crate) fn manager_addresses(&self) -> Vec<String> {
        self.managers.clone()
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability.parse().unwrap_or_default()
    }

    /// The processes of one role.
    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &MemberState> {
        self.members.iter().filter(move |member| member.role == role)
    }

    /// The gateway. A state without one is not loaded.
    pub(crate) fn gateway(&self) -> &MemberState {
        self.of(Role::Gateway).next().expect("a dev cluster has a gateway")
    }

    pub(crate) fn find(&self, member: Member) -> Option<&MemberState> {
        self.members.iter().find(|state| state.member() == member)
    }

    pub(crate) fn set_pid(&mut self, member: Member, pid: Option<u32>) {
        if let Some(state) = self.members.iter_mut().find(|state| state.member() == member) {
            state.pid = pid;
        }
    }
}

/// An address that a client on this machine can connect to: one that means "every interface" is no destination.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn a_state() -> State {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let member = |role, n, port| MemberState::new(Member::new(role, n), at(port), at(port + 1));
        let members = vec![
            member(Role::Gateway, 1, 10809),
            member(Role::StorageNode, 2, 7112),
            member(Role::StorageNode, 1, 7110),
            member(Role::ClusterManager, 1, 7400),
            member(Role::ClusterManager, 2, 7402),
        ];
        State::new("vol1", Durability::WriteThrough, members)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(State::load(directory.path()), Ok(None));
        let mut state = a_state();
        state.set_pid(Member::new(Role::StorageNode, 2), Some(4711));
        state.save(&directory.path().join("cluster.json")).unwrap();
        assert_eq!(State::load(directory.path()), Ok(Some(state.clone())));
        assert_eq!(state.manager_addresses(), ["127.0.0.1:7400", "127.0.0.1:7402"]);
        assert_eq!(state.uri(), "nbd://127.0.0.1:10809/vol1");
        assert_eq!(state.members[0].name, "manager-1");
        assert_eq!(state.find(Member::new(Role::StorageNode, 2)).unwrap().pid, Some(4711));
        assert_eq!(state.durability(), Durability::WriteThrough);
    }

    #[test]
    fn the_file_is_for_scripts_too() {
        let json = serde_json::to_value(a_state()).unwrap();
        assert_eq!(json["managers"][0], "127.0.0.1:7400");
        assert_eq!(json["members"][0]["role"], "cluster-manager");
        assert_eq!(json["members"][0]["admin"], "127.0.0.1:7401");
        assert!(json["members"][0]["pid"].is_null());
    }

    #[test]
    fn damage_and_other_versions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json");
        std::fs::write(&path, "{").unwrap();
        assert!(State::load(directory.path()).is_err());
        let mut state = a_state();
        state.format = 2;
        state.save(&path).unwrap();
        let refusal = State::load(directory.path()).unwrap_err();
        assert!(refusal.message.contains("format 2"), "{}", refusal.message);
        let mut state = a_state();
        state.members.retain(|member| member.role != Role::Gateway);
        state.save(&path).unwrap();
        assert!(State::load(directory.path()).is_err());
    }

    #[test]
    fn a_wildcard_is_no_destination() {
        assert_eq!(reachable("0.0.0.0:5".parse().unwrap()).to_string(), "127.0.0.1:5");
        assert_eq!(reachable("[::]:5".parse().unwrap()).to_string(), "[::1]:5");
        assert_eq!(reachable("10.0.0.1:5".parse().unwrap()).to_string(), "10.0.0.1:5");
    }
}
