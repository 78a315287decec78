//! The configuration files of a dev cluster's processes: the same that a process on a machine of its own would have.

use super::layout::{Layout, write_atomically};
use super::member::Role;
use super::state::{MemberState, State};
use crate::failure::Failure;
use toml::{Table, Value};

/// What a dev cluster's storage node sets aside for its journal: less than on a machine of its own, to start sooner.
const JOURNAL: [(&str, &str); 2] = [("journal_file_size", "16MiB"), ("journal_files", "4")];
/// Shorter than on real machines, so that `quoin status` notices a loss sooner.
const HEARTBEAT_INTERVAL: &str = "500ms";

/// Writes the configuration of every process.
pub(crate) fn write_all(layout: &Layout, state: &State) -> Result<(), Failure> {
    for member in &state.members {
        let body = toml::to_string(&table(layout, state, member)).expect("a table of strings can be written");
        let text = format!("# {}: written by `quoin dev` at each start.\n\n{body}", member.member());
        write_atomically(&layout.config(member.member()), &text)?;
    }
    Ok(())
}

fn table(layout: &Layout, state: &State, member: &MemberState) -> Table {
    let mut table = Table::new();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), Value::String(value));
    set("data_dir", layout.data(member.member()).display().to_string());
    set("admin_listen", member.admin.to_string());
    set("heartbeat_interval", HEARTBEAT_INTERVAL.to_owned());
    if member.role != Role::ClusterManager {
        set("local_sockets", layout.local_sockets().display().to_string());
    }
    match member.role {
        Role::ClusterManager => {
            set("id", member.n.to_string());
            set("listen", member.listen.to_string());
            let peers = state.of(Role::ClusterManager).map(|peer| format!("{}={}", peer.n, peer.listen));
            table.insert("peers".to_owned(), strings(peers));
        }
        Role::StorageNode => {
            set("name", member.name.clone());
            set("listen", member.listen.to_string());
            for (key, value) in JOURNAL {
                set(key, value.to_owned());
            }
            table.insert("managers".to_owned(), strings(state.manager_addresses().into_iter()));
        }
        Role::Gateway => {
            set("name", member.name.clone());
            let socket = layout.nbd_socket().map(|path| format!("unix://{}", path.display()));
            let listen = std::iter::once(format!("tcp://{}", member.listen)).chain(socket);
            table.insert("listen".to_owned(), strings(listen));
            table.insert("managers".to_owned(), strings(state.manager_addresses().into_iter()));
        }
    }
    table
}

fn strings(items: impl Iterator<Item = String>) -> Value {
    Value::Array(items.map(Value::String).collect())
}

#[cfg(test)]
mod tests {
    use super::super::member::Member;
    use super::super::state::tests::a_state;
    use super::*;
    use crate::options::gateway::GatewayOptions;
    use crate::options::manager::ManagerOptions;
    use crate::options::storage_node::StorageNodeOptions;
    use crate::options::{Options, RoleArgs};
    use clap::{Args, Command, FromArgMatches};

    fn load<O: Options + Args>(layout: &Layout, member: Member) -> O::Merged {
        let config = layout.config(member).display().to_string();
        let command = RoleArgs::<O>::augment_args(Command::new("role"));
        let matches = command.try_get_matches_from(["role", "--config", config.as_str()]).unwrap();
        RoleArgs::<O>::from_arg_matches(&matches).unwrap().load(&matches).unwrap()
    }

    #[test]
    fn the_roles_understand_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("a \"quoted\" name")).unwrap();
        layout.make_dirs().unwrap();
        write_all(&layout, &a_state()).unwrap();

        let member = Member::new(Role::ClusterManager, 2);
        let (config, _) = load::<ManagerOptions>(&layout, member).resolve().unwrap();
        assert_eq!((config.id, config.listen.port(), config.peers.len()), (2, 7402, 2));
        assert_eq!(config.data_dir, layout.data(member));

        let member = Member::new(Role::StorageNode, 1);
        let (config, _) = load::<StorageNodeOptions>(&layout, member).resolve().unwrap();
        assert_eq!((config.name.as_str(), config.journal_file_bytes), ("node-1", 16 << 20));

        let member = Member::new(Role::Gateway, 1);
        let (config, _) = load::<GatewayOptions>(&layout, member).resolve().unwrap();
        assert_eq!(
            (config.id.as_str(), config.listen[0].to_string()),
            ("gateway-1", "127.0.0.1:10809".to_owned())
        );
        assert_eq!(config.managers, ["127.0.0.1:7400", "127.0.0.1:7402"]);
    }
}
