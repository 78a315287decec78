//! What the cluster is to consist of: what it had at its last start, and what is asked for now.

use super::member::{Member, Role};
use super::ports::Ports;
use super::state::{MemberState, State};
use super::{RunArgs, VOLUME};
use crate::failure::Failure;
use std::net::SocketAddr;

/// How many processes of each role there are where nothing is said.
const COUNT_DEFAULT: u32 = 3;
/// Where NBD is served where nothing is said: the port that IANA gave it.
const NBD_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10809);

/// The cluster to start. Ports that were free before are kept if they are free still.
pub(crate) fn plan(args: &RunArgs, former: Option<&State>) -> Result<State, Failure> {
    let mut ports = Ports::new();
    let nodes = nodes(args, former)?;
    let managers = managers(args, former)?;
    let durability = durability(args, former)?;
    // The fixed addresses first: a free one must not be chosen where a fixed one is wanted.
    let listen = nbd(args, former, &mut ports)?;
    let mut members = Vec::new();
    for n in 1..=managers {
        let member = Member::new(Role::ClusterManager, n);
        let listen = manager(member, former, &mut ports)?;
        members.push((member, listen));
    }
    for n in 1..=nodes {
        // A node tells the managers at each start where it is, so it may move.
        let member = Member::new(Role::StorageNode, n);
        let listen = kept(former.and_then(|state| state.find(member)).map(|state| state.listen), &mut ports)?;
        members.push((member, listen));
    }
    members.push((Member::new(Role::Gateway, 1), listen));
    let members = members
        .into_iter()
        .map(|(member, listen)| {
            let former_admin = former.and_then(|state| state.find(member)).map(|state| state.admin);
            Ok(MemberState::new(member, listen, kept(former_admin, &mut ports)?))
        })
        .collect::<Result<_, Failure>>()?;
    Ok(State::new(VOLUME, durability, members))
}

/// The former address if it is free, another one if not.
fn kept(former: Option<SocketAddr>, ports: &mut Ports) -> Result<SocketAddr, Failure> {
    match former {
        Some(address) if ports.take(address) => Ok(address),
        _ => ports.free(),
    }
}

/// A manager's address. It stands in the raft configuration, so it cannot move.
fn manager(member: Member, former: Option<&State>, ports: &mut Ports) -> Result<SocketAddr, Failure> {
    let Some(address) = former.and_then(|state| state.find(member)).map(|state| state.listen) else {
        return ports.free();
    };
    if ports.take(address) {
        return Ok(address);
    }
    Err(Failure::failed(format!("{address}, the address of {member}, is in use by another program"))
        .hint(format!("`ss -ltnp 'sport = :{}'` shows which; end it and start again", address.port())))
}

fn nbd(args: &RunArgs, former: Option<&State>, ports: &mut Ports) -> Result<SocketAddr, Failure> {
    let former = former.map(|state| state.gateway().listen);
    let wanted = args.nbd.or(former).unwrap_or(NBD_DEFAULT);
    if wanted.port() == 0 {
        let chosen = match former {
            Some(address) if address.ip() == wanted.ip() => kept(Some(address), ports)?,
            _ => ports.free()?,
        };
        return Ok(SocketAddr::new(wanted.ip(), chosen.port()));
    }
    if ports.take(wanted) {
        return Ok(wanted);
    }
    Err(Failure::failed(format!("cannot serve NBD at {wanted}: the address is in use or not this machine's"))
        .hint("--nbd 127.0.0.1:0 chooses a free port; another `quoin dev` may be running"))
}

fn nodes(args: &RunArgs, former: Option<&State>) -> Result<u32, Failure> {
    let Some(had) = former.map(|state| count(state, Role::StorageNode)) else {
        return Ok(args.nodes.unwrap_or(COUNT_DEFAULT));
    };
    match args.nodes {
        Some(nodes) if nodes < had => Err(Failure::bad_usage(format!(
            "option `nodes` = {nodes}: the cluster has {had} storage nodes, and their data is needed"
        ))
        .hint(format!("leave --nodes out, or give {had} or more, or start afresh with --reset"))),
        nodes => Ok(nodes.unwrap_or(had)),
    }
}

fn managers(args: &RunArgs, former: Option<&State>) -> Result<u32, Failure> {
    let Some(had) = former.map(|state| count(state, Role::ClusterManager)) else {
        return Ok(args.managers.unwrap_or(COUNT_DEFAULT));
    };
    match args.managers {
        Some(managers) if managers != had => Err(Failure::bad_usage(format!(
            "option `managers` = {managers}: the cluster has {had} cluster managers"
        ))
        .hint("leave --managers out, or start afresh with --reset")),
        _ => Ok(had),
    }
}

fn durability(args: &RunArgs, former: Option<&State>) -> Result<quoin_types::Durability, Failure> {
    let Some(had) = former.map(State::durability) else {
        return Ok(args.durability.unwrap_or_default());
    };
    match args.durability {
        Some(durability) if durability != had => Err(Failure::bad_usage(format!(
            "option `durability` = {durability}: {VOLUME} was created with {had}"
        ))
        .hint("leave --durability out, or start afresh with --reset")),
        _ => Ok(had),
    }
}

fn count(state: &State, role: Role) -> u32 {
    u32::try_from(state.of(role).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::Durability;
    use std::net::TcpListener;

    fn args() -> RunArgs {
        RunArgs { nbd: Some("127.0.0.1:0".parse().unwrap()), ..RunArgs::default() }
    }

    #[test]
    fn a_new_cluster_has_three_of_each_and_ports_of_its_own() {
        let state = plan(&args(), None).unwrap();
        assert_eq!(count(&state, Role::ClusterManager), 3);
        assert_eq!(count(&state, Role::StorageNode), 3);
        let mut ports: Vec<u16> =
            state.members.iter().flat_map(|member| [member.listen.port(), member.admin.port()]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 14);
    }

    #[test]
    fn the_next_start_keeps_what_it_can() {
        let first = plan(&args(), None).unwrap();
        assert_eq!(plan(&RunArgs::default(), Some(&first)).unwrap(), first);

        let node = first.find(Member::new(Role::StorageNode, 1)).unwrap().listen;
        let taken = TcpListener::bind(node).unwrap();
        let second = plan(&RunArgs::default(), Some(&first)).unwrap();
        assert_ne!(second.find(Member::new(Role::StorageNode, 1)).unwrap().listen, node);
        drop(taken);

        let manager = first.find(Member::new(Role::ClusterManager, 2)).unwrap().listen;
        let _taken = TcpListener::bind(manager).unwrap();
        let refusal = plan(&RunArgs::default(), Some(&first)).unwrap_err();
        assert!(refusal.message.contains("cluster-manager-2"), "{}", refusal.message);
    }

    #[test]
    fn a_cluster_grows_but_does_not_shrink() {
        let first = plan(&args(), None).unwrap();
        let with =
            |nodes, managers, durability| RunArgs { nodes, managers, durability, ..RunArgs::default() };
        let grown = plan(&with(Some(5), None, None), Some(&first)).unwrap();
        assert_eq!(count(&grown, Role::StorageNode), 5);
        assert!(plan(&with(Some(2), None, None), Some(&first)).is_err());
        assert!(plan(&with(None, Some(1), None), Some(&first)).is_err());
        assert!(plan(&with(None, Some(3), Some(Durability::Flush)), Some(&first)).is_ok());
        assert!(plan(&with(None, None, Some(Durability::WriteThrough)), Some(&first)).is_err());
    }

    #[test]
    fn a_taken_nbd_address_is_an_error_with_a_hint() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let args = RunArgs { nbd: Some(taken.local_addr().unwrap()), ..RunArgs::default() };
        assert!(plan(&args, None).unwrap_err().hint.unwrap().contains("--nbd"));
    }
}
