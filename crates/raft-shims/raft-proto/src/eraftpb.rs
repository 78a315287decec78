//! The messages, with the accessors that raft-rs calls. Field numbers are those of raft-rs's `eraftpb.proto` and never
//! change: they are in the logs on disk and on the wire.

// The names are raft-rs's.
#![allow(clippy::enum_variant_names)]

/// What an entry of the log holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum EntryType {
    /// The application's data.
    EntryNormal = 0,
    /// A [`ConfChange`].
    EntryConfChange = 1,
    /// A [`ConfChangeV2`].
    EntryConfChangeV2 = 2,
}

/// What a message asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum MessageType {
    MsgHup = 0,
    MsgBeat = 1,
    MsgPropose = 2,
    MsgAppend = 3,
    MsgAppendResponse = 4,
    MsgRequestVote = 5,
    MsgRequestVoteResponse = 6,
    MsgSnapshot = 7,
    MsgHeartbeat = 8,
    MsgHeartbeatResponse = 9,
    MsgUnreachable = 10,
    MsgSnapStatus = 11,
    MsgCheckQuorum = 12,
    MsgTransferLeader = 13,
    MsgTimeoutNow = 14,
    MsgReadIndex = 15,
    MsgReadIndexResp = 16,
    MsgRequestPreVote = 17,
    MsgRequestPreVoteResponse = 18,
}

/// How a change of membership takes effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// At once for one step; through a joint configuration, left by raft itself, for several.
    Auto = 0,
    /// Through a joint configuration, left by raft itself.
    Implicit = 1,
    /// Through a joint configuration, left when the application proposes the empty change.
    Explicit = 2,
}

/// What happens to one member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// It becomes a voter.
    AddNode = 0,
    /// It leaves.
    RemoveNode = 1,
    /// It becomes a learner.
    AddLearnerNode = 2,
}

/// An entry of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// An [`EntryType`].
    #[prost(enumeration = "EntryType", tag = "1")]
    pub entry_type: i32,
    /// The term in which it was proposed.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Its place in the log.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The application's data, or a change of membership.
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    /// Unused since raft-rs 0.4.
    #[prost(bool, tag = "5")]
    pub sync_log: bool,
    /// More of the application's data.
    #[prost(bytes = "vec", tag = "6")]
    pub context: Vec<u8>,
}

/// What a snapshot stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotMetadata {
    /// The members.
    #[prost(message, optional, tag = "1")]
    pub conf_state: Option<ConfState>,
    /// The last entry applied.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// That entry's term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// The application's state after an entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// The state, as the application encodes it.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// What it stands for.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<SnapshotMetadata>,
}

/// A message between members.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Message {
    #[prost(enumeration = "MessageType", tag = "1")]
    pub msg_type: i32,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(uint64, tag = "3")]
    pub from: u64,
    #[prost(uint64, tag = "4")]
    pub term: u64,
    #[prost(uint64, tag = "5")]
    pub log_term: u64,
    #[prost(uint64, tag = "6")]
    pub index: u64,
    #[prost(message, repeated, tag = "7")]
    pub entries: Vec<Entry>,
    #[prost(uint64, tag = "8")]
    pub commit: u64,
    #[prost(message, optional, tag = "9")]
    pub snapshot: Option<Snapshot>,
    #[prost(bool, tag = "10")]
    pub reject: bool,
    #[prost(uint64, tag = "11")]
    pub reject_hint: u64,
    #[prost(bytes = "vec", tag = "12")]
    pub context: Vec<u8>,
    #[prost(uint64, tag = "13")]
    pub request_snapshot: u64,
    #[prost(uint64, tag = "14")]
    pub deprecated_priority: u64,
    #[prost(uint64, tag = "15")]
    pub commit_term: u64,
    #[prost(int64, tag = "16")]
    pub priority: i64,
}

/// What a member must not forget.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HardState {
    /// The highest term seen.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// The last entry known to be committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// Who is a member, as what.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfState {
    /// The voters.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// The learners.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// The voters of the configuration being left; empty unless joint.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Voters being left that will become learners.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// Whether raft leaves the joint configuration by itself.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

/// A change of membership, older form: one step.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChange {
    /// The application's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", tag = "2")]
    pub change_type: i32,
    /// The member.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// The application's.
    #[prost(bytes = "vec", tag = "4")]
    pub context: Vec<u8>,
}

/// One step of a change of membership.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeSingle {
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", tag = "1")]
    pub change_type: i32,
    /// The member.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// A change of membership, newer form: any number of steps.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeV2 {
    /// A [`ConfChangeTransition`].
    #[prost(enumeration = "ConfChangeTransition", tag = "1")]
    pub transition: i32,
    /// The steps.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// The application's.
    #[prost(bytes = "vec", tag = "3")]
    pub context: Vec<u8>,
}

/// Getters of plain numbers: `get_x`.
macro_rules! numbers {
    ($message:ty: $($get:ident $set:ident $field:ident $type:ty),+) => {
        impl $message {
            $(
                /// The field of this name.
                pub fn $get(&self) -> $type {
                    self.$field
                }
                /// Sets the field of this name.
                pub fn $set(&mut self, value: $type) {
                    self.$field = value;
                }
            )+
        }
    };
}

/// Getters of enums. They panic on an unknown value: see the README.
macro_rules! enums {
    ($message:ty: $get:ident $field:ident $type:ty) => {
        impl $message {
            /// The field of this name. Panics on a value that this version does not know.
            pub fn $get(&self) -> $type {
                <$type>::try_from(self.$field).expect("messages are checked for unknown values on arrival")
            }
        }
    };
}

/// Accessors of lists and byte strings.
macro_rules! lists {
    ($message:ty: $($get:ident $set:ident $mutate:ident $take:ident $field:ident $item:ty),+) => {
        impl $message {
            $(
                /// The field of this name.
                pub fn $get(&self) -> &[$item] {
                    &self.$field
                }
                /// Sets the field of this name.
                pub fn $set(&mut self, value: Vec<$item>) {
                    self.$field = value;
                }
                /// The field of this name, to change.
                pub fn $mutate(&mut self) -> &mut Vec<$item> {
                    &mut self.$field
                }
                /// Takes the field of this name out, leaving it empty.
                pub fn $take(&mut self) -> Vec<$item> {
                    std::mem::take(&mut self.$field)
                }
            )+
        }
    };
}

/// Accessors of messages within messages; an absent one reads as the empty one.
macro_rules! messages {
    ($message:ty: $has:ident $get:ident $set:ident $mutate:ident $take:ident $field:ident $type:ty = $empty:expr) => {
        impl $message {
            /// Whether the field of this name is there.
            pub fn $has(&self) -> bool {
                self.$field.is_some()
            }
            /// The field of this name, or the empty message.
            pub fn $get(&self) -> &$type {
                static EMPTY: $type = $empty;
                self.$field.as_ref().unwrap_or(&EMPTY)
            }
            /// Sets the field of this name.
            pub fn $set(&mut self, value: $type) {
                self.$field = Some(value);
            }
            /// The field of this name, to change; put in if it was absent.
            pub fn $mutate(&mut self) -> &mut $type {
                self.$field.get_or_insert_default()
            }
            /// Takes the field of this name out.
            pub fn $take(&mut self) -> $type {
                self.$field.take().unwrap_or_default()
            }
        }
    };
}

numbers!(Entry: get_term set_term term u64, get_index set_index index u64);
numbers!(SnapshotMetadata: get_index set_index index u64, get_term set_term term u64);
numbers!(HardState: get_term set_term term u64, get_vote set_vote vote u64, get_commit set_commit commit u64);
numbers!(Message:
    get_to set_to to u64, get_from set_from from u64, get_term set_term term u64, get_log_term set_log_term log_term u64,
    get_index set_index index u64, get_commit set_commit commit u64, get_commit_term set_commit_term commit_term u64,
    get_reject set_reject reject bool, get_reject_hint set_reject_hint reject_hint u64,
    get_request_snapshot set_request_snapshot request_snapshot u64, get_priority set_priority priority i64);
numbers!(ConfState: get_auto_leave set_auto_leave auto_leave bool);
numbers!(ConfChange: get_id set_id id u64, get_node_id set_node_id node_id u64);
numbers!(ConfChangeSingle: get_node_id set_node_id node_id u64);

enums!(Entry: get_entry_type entry_type EntryType);
enums!(Message: get_msg_type msg_type MessageType);
enums!(ConfChange: get_change_type change_type ConfChangeType);
enums!(ConfChangeSingle: get_change_type change_type ConfChangeType);
enums!(ConfChangeV2: get_transition transition ConfChangeTransition);

lists!(Entry: get_data set_data mut_data take_data data u8, get_context set_context mut_context take_context context u8);
lists!(Snapshot: get_data set_data mut_data take_data data u8);
lists!(Message:
    get_entries set_entries mut_entries take_entries entries Entry,
    get_context set_context mut_context take_context context u8);
lists!(ConfState:
    get_voters set_voters mut_voters take_voters voters u64,
    get_learners set_learners mut_learners take_learners learners u64,
    get_voters_outgoing set_voters_outgoing mut_voters_outgoing take_voters_outgoing voters_outgoing u64,
    get_learners_next set_learners_next mut_learners_next take_learners_next learners_next u64);
lists!(ConfChange: get_context set_context mut_context take_context context u8);
lists!(ConfChangeV2:
    get_changes set_changes mut_changes take_changes changes ConfChangeSingle,
    get_context set_context mut_context take_context context u8);

messages!(SnapshotMetadata: has_conf_state get_conf_state set_conf_state mut_conf_state take_conf_state conf_state ConfState =
    ConfState { voters: Vec::new(), learners: Vec::new(), voters_outgoing: Vec::new(), learners_next: Vec::new(),
        auto_leave: false });
messages!(Snapshot: has_metadata get_metadata set_metadata mut_metadata take_metadata metadata SnapshotMetadata =
    SnapshotMetadata { conf_state: None, index: 0, term: 0 });
messages!(Message: has_snapshot get_snapshot set_snapshot mut_snapshot take_snapshot snapshot Snapshot =
    Snapshot { data: Vec::new(), metadata: None });

impl Snapshot {
    /// Whether this stands for no state at all.
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}
