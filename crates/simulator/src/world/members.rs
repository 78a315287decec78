//! Members of the managers that are lost for good, and others that are taken in for them.

use super::manager::Managers;
use super::{Process, World};
use crate::queue::Nanos;
use quoin_cluster_manager::member::{Answer, Reply, Request};
use quoin_disk::MemDir;

impl Managers {
    /// Whether the operator knows that the members are those that are wanted. From then on the next one may be lost.
    pub(crate) fn are_complete(&self) -> bool {
        self.lost.is_none()
    }
}

impl World {
    /// A member's directory is lost. After a time another one begins in its place, under an id that nobody had, with an empty
    /// directory, and the operator has it taken in for the lost one. Only one at a time is between two members: two of three
    /// would take with them what only they had.
    pub(crate) fn lose_manager(&mut self, index: usize, away: Nanos) {
        if !self.managers.are_complete() {
            return;
        }
        self.kill(Process::Manager(index), away);
        self.managers.last_id += 1;
        let id = self.managers.last_id;
        let process = &mut self.managers.members[index];
        let lost = std::mem::replace(&mut process.id, id);
        process.directory = MemDir::new();
        let address = process.machine.to_string();
        self.managers.lost = Some(lost);
        self.trace
            .line(self.now, || format!("manager {index} is lost with its directory, {id} comes for {lost}"));
        self.operate(Request::ChangeMembers { add: Some((id, address)), remove: Some(lost) });
    }

    /// The operator is answered.
    pub(super) fn members_changed(&mut self, answer: &Answer) {
        if *answer != Answer::Reply(Reply::MembersChanged) {
            self.fail(format!("the members were to change: {answer:?}"));
        }
        self.managers.lost = None;
        // The moment that counts: what the leader knows goes with it.
        if !self.healed && self.fault_random.permille(300) {
            let leader = self.managers.leader();
            let away = self.fault_random.wait(self.setup.fault_time);
            self.lose_manager(leader, away);
        }
    }
}
