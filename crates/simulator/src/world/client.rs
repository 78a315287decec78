//! The clients: each one connection to a gateway, some requests under way, and all that it was told in the history.

use super::full::NO_SPACE;
use super::gateway::EXPORT;
use super::nbd_client::{Command, Heard, NbdClient};
use super::network::{CALLER, ConnId};
use super::{Event, Process, World};
use crate::checker::{Acknowledged, never_stalled};
use crate::queue::{MILLISECOND, Nanos};
use crate::random::Random;
use crate::setup::Setup;
use bytes::{BufMut, Bytes, BytesMut};
use quoin_history::{Operation, What};
use quoin_types::{BLOCK_BYTES, Durability, EXTENT_BYTES, Generation};
use std::collections::BTreeMap;

/// Parts of blocks are written in this unit: where that may happen, each is a register of its own.
const CELL_BYTES: u64 = 512;
const CELLS: u64 = BLOCK_BYTES / CELL_BYTES;
/// Above all numbers of blocks: the registers of cells.
const CELLS_FROM: u64 = 1 << 32;

/// Which blocks are written in parts.
fn is_written_in_parts(block: u64) -> bool {
    block % 7 == 3
}

/// Whether a range has no part of a block.
pub(super) fn is_whole_blocks(offset: u64, length: u64) -> bool {
    offset.is_multiple_of(BLOCK_BYTES) && length.is_multiple_of(BLOCK_BYTES)
}

/// What all clients do together.
pub(crate) struct Workload {
    random: Random,
    next_value: u64,
    /// The blocks that are asked for most.
    hot: Vec<u64>,
    /// Where each client goes.
    pub(crate) targets: Vec<usize>,
    /// The blocks that each client keeps to, as a first one and a count.
    pub(crate) bounds: Vec<Option<(u64, u64)>>,
    /// Whether new requests are made.
    pub(crate) active: bool,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Requests that were answered with no space.
    pub(crate) refused_for_space: u64,
    /// Requests of the last round that were not answered.
    pub(crate) last_open: u64,
    /// Nobody uses the volume before.
    away_until: Nanos,
}

impl Workload {
    pub(crate) fn new(mut random: Random, setup: &Setup) -> Self {
        let size_bytes = setup.segment_bytes * u64::from(setup.segments);
        let blocks = size_bytes / BLOCK_BYTES;
        let hot = (0..setup.hot_blocks).map(|_| random.below(blocks)).collect();
        let targets = vec![0; setup.clients];
        Self {
            random,
            next_value: 1,
            hot,
            targets,
            bounds: vec![None; setup.clients],
            active: true,
            asked: 0,
            answered: 0,
            failed: 0,
            refused_for_space: 0,
            last_open: 0,
            away_until: 0,
        }
    }
}

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) command: Command,
    fua: bool,
    pub(super) offset: u64,
    pub(super) length: u64,
    start: Nanos,
    /// Registers with the values written to them.
    pub(super) values: Vec<(u64, u64)>,
    /// Of the last round: everything is read.
    is_last: bool,
}

/// Reads that a client has open beside as many requests as it may.
const READS_BESIDES: usize = 4;

/// One client.
pub(crate) struct Client {
    conn: Option<ConnId>,
    gateway: usize,
    nbd: NbdClient,
    epoch: u64,
    size_bytes: u64,
    pending: BTreeMap<u64, Pending>,
    next_cookie: u64,
    timer: u64,
    opened_at: Nanos,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            conn: None,
            gateway: 0,
            nbd: NbdClient::new(EXPORT, false),
            epoch: 0,
            size_bytes: 0,
            pending: BTreeMap::new(),
            next_cookie: 0,
            timer: 0,
            opened_at: 0,
        }
    }

    /// Whether it waits for nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether it can ask.
    pub(crate) fn is_connected(&self) -> bool {
        self.conn.is_some() && self.nbd.is_open()
    }
}

impl World {
    /// All clients begin.
    pub(crate) fn start_clients(&mut self) {
        for client in 0..self.clients.len() {
            self.arm_client(client, 0);
        }
    }

    fn arm_client(&mut self, client: usize, wait: Nanos) {
        self.clients[client].timer += 1;
        let timer = self.clients[client].timer;
        self.queue.push(self.now + wait, Event::ClientAct { client, timer });
    }

    pub(super) fn client_act(&mut self, index: usize, timer: u64) {
        if self.clients[index].timer != timer {
            return;
        }
        let patience = self.setup.patience;
        let client = &self.clients[index];
        let Some(conn) = client.conn else { return self.open_export(index) };
        let oldest = client.pending.values().map(|pending| pending.start).min();
        let waits_since = if client.nbd.is_open() { oldest } else { Some(client.opened_at) };
        if waits_since.is_some_and(|since| self.now - since > patience) {
            if self.is_steady(waits_since.unwrap_or_default()) {
                self.fail_if(never_stalled::gave_up(&self.setup, patience));
            }
            // Nobody answers: another gateway may.
            if !self.healed {
                self.workload.targets[index] = self.workload.random.index(self.setup.gateways);
            }
            self.close(conn, CALLER);
            return self.client_conn_ended(index, conn);
        }
        let moves = self.clients[index].gateway != self.workload.targets[index];
        if moves && (self.healed || self.workload.random.permille(300)) {
            self.close(conn, CALLER);
            return self.client_conn_ended(index, conn);
        }
        if self.clients[index].nbd.is_open() && self.workload.active {
            let pending = self.clients[index].pending.len();
            if pending < self.setup.depth {
                self.ask_something(index);
            } else if pending < self.setup.depth + READS_BESIDES {
                // Its writes wait, perhaps at a gateway that is left alone: what that one still shows is to be seen (rule R2).
                let block = self.workload.random.pick(&self.workload.hot);
                self.ask_read(index, block * BLOCK_BYTES, BLOCK_BYTES, false);
            }
        }
        let gap = if self.workload.active { self.setup.request_gap } else { 100 * MILLISECOND };
        let wait = self.workload.random.wait(gap);
        self.arm_client(index, wait.min(patience));
    }

    /// All clients leave, and are back then.
    pub(super) fn send_clients_away(&mut self, until: Nanos) {
        self.workload.away_until = until;
        for index in 0..self.clients.len() {
            if let Some(conn) = self.clients[index].conn {
                self.close(conn, CALLER);
                self.client_conn_ended(index, conn);
            }
        }
    }

    fn open_export(&mut self, index: usize) {
        if self.workload.away_until > self.now && !self.healed {
            let wait = self.workload.away_until - self.now;
            return self.arm_client(index, wait);
        }
        let gateway = self.workload.targets[index];
        let structured = self.workload.random.permille(500);
        let conn = self.connect(Process::Client(index), Process::Gateway(gateway));
        let client = &mut self.clients[index];
        client.gateway = gateway;
        client.nbd = NbdClient::new(EXPORT, structured);
        client.conn = Some(conn);
        client.opened_at = self.now;
        let hello = client.nbd.hello();
        self.send_on(conn, CALLER, hello);
        self.arm_client(index, self.setup.patience / 2);
    }

    /// The connection is gone: nobody knows what became of what was under way.
    pub(super) fn client_conn_ended(&mut self, index: usize, conn: ConnId) {
        let client = &mut self.clients[index];
        if client.conn != Some(conn) {
            return;
        }
        client.conn = None;
        let pending = std::mem::take(&mut client.pending);
        for pending in pending.into_values() {
            self.workload.failed += 1;
            self.record(index, &pending, None, false);
        }
        let wait = self.workload.random.between(5, 60) * MILLISECOND;
        self.arm_client(index, wait);
    }

    pub(super) fn client_bytes(&mut self, index: usize, conn: ConnId, bytes: &Bytes) {
        if self.clients[index].conn != Some(conn) {
            return;
        }
        let heard = match self.clients[index].nbd.take(bytes) {
            Ok(heard) => heard,
            Err(reason) => return self.fail(format!("client {index} was sent no NBD: {reason}")),
        };
        for heard in heard {
            match heard {
                Heard::Open(size_bytes) => {
                    let gateway = self.clients[index].gateway;
                    let epoch = self.gateways[gateway].export().map_or(0, |export| export.epoch.0);
                    let client = &mut self.clients[index];
                    (client.epoch, client.size_bytes) = (epoch, size_bytes);
                    self.arm_client(index, 0);
                }
                Heard::Refused => {
                    self.close(conn, CALLER);
                    return self.client_conn_ended(index, conn);
                }
                Heard::Answer(cookie, answer) => self.answered(index, cookie, answer),
            }
        }
    }

    fn answered(&mut self, index: usize, cookie: u64, answer: Result<Bytes, u32>) {
        let Some(mut pending) = self.clients[index].pending.remove(&cookie) else {
            return self.fail(format!("client {index} was answered what it did not ask"));
        };
        if self.is_steady(pending.start) {
            let in_time = never_stalled::answered(&self.setup, self.now - pending.start);
            self.fail_if(
                in_time.map_err(|problem| format!("client {index}: {problem}: {:?}", pending.command)),
            );
        }
        match answer {
            Ok(data) => {
                self.workload.answered += 1;
                if pending.command == Command::Read {
                    match registers(pending.offset, &data) {
                        Ok(values) => pending.values = values,
                        Err(problem) => return self.fail(format!("client {index}: {problem}")),
                    }
                }
                self.workload.last_open -= u64::from(pending.is_last);
                self.record(index, &pending, Some(self.now), pending.fua);
                if pending.command != Command::Read {
                    let told = told(&pending, self.clients[index].epoch, self.now);
                    let is_flush = pending.command == Command::Flush;
                    self.observer.acknowledged(&told, is_flush);
                    if !is_flush {
                        self.write_is_acknowledged(self.clients[index].epoch);
                    }
                }
            }
            // Whether anything was changed is not known: a request may have several parts.
            Err(errno) => {
                self.workload.failed += 1;
                if pending.is_last {
                    self.fail(format!("the last round failed: {pending:?}"));
                }
                let has_no_effect = errno == NO_SPACE && self.told_no_space(index, &pending);
                if !has_no_effect {
                    self.record(index, &pending, None, false);
                }
            }
        }
    }

    /// Whether a request was made when everything worked, but for faults.
    fn is_steady(&self, start: Nanos) -> bool {
        !self.healed && self.steady_since.is_some_and(|since| start >= since)
    }

    /// A gateway answers: what that means must be so in the configurations that it has run since it was asked.
    pub(super) fn judge_answer(&mut self, conn: ConnId, cookie: u64, ran: &[(Nanos, Vec<Generation>)]) {
        let Some(client) = self.clients.iter().find(|client| client.conn == Some(conn)) else { return };
        let Some(pending) = client.pending.get(&cookie) else { return };
        let is_flush = pending.command == Command::Flush;
        if pending.command != Command::Read {
            let told = told(pending, client.epoch, self.now);
            self.observer.answers(&told, is_flush, ran);
            self.observer.gateway_acknowledges(&pending.values);
        }
    }

    fn record(&mut self, index: usize, pending: &Pending, end_ns: Option<Nanos>, fua: bool) {
        let (client, epoch, start_ns) = (index as u64, self.clients[index].epoch, pending.start);
        let durable = end_ns.is_some() && (fua || self.setup.durability == Durability::WriteThrough);
        let mut push = |what| {
            self.observer.history.push(Operation { client, epoch, what, start_ns, end_ns });
        };
        match pending.command {
            Command::Read if end_ns.is_none() => {}
            Command::Read => {
                for (block, value) in pending.values.iter().copied() {
                    push(What::Read { block, value });
                }
            }
            Command::Flush if end_ns.is_none() => {}
            Command::Flush => push(What::Flush),
            Command::Write | Command::Trim | Command::WriteZeroes => {
                for (block, value) in pending.values.iter().copied() {
                    push(What::Write { block, value, durable });
                }
            }
        }
    }

    fn ask_something(&mut self, index: usize) {
        let size_bytes = self.clients[index].size_bytes;
        let random = &mut self.workload.random;
        let block = if random.permille(800) {
            random.pick(&self.workload.hot)
        } else {
            random.below(size_bytes / BLOCK_BYTES)
        };
        let fua = random.permille(150);
        let block = match self.workload.bounds[index] {
            Some((first, count)) => (first + block % count).min(size_bytes / BLOCK_BYTES - 1),
            None => block,
        };
        let offset = block * BLOCK_BYTES;
        let left = size_bytes - offset;
        let several = random.pick(&[1, 1, 1, 1, 1, 1, 2, 3]) * BLOCK_BYTES;
        let several = several.min(left);
        let (extent, extent_bytes) = (offset / EXTENT_BYTES * EXTENT_BYTES, EXTENT_BYTES);
        if self.setup.fills && random.permille(200) {
            let extent = random.below(size_bytes / EXTENT_BYTES) * EXTENT_BYTES;
            return self.ask_write(index, extent, EXTENT_BYTES, fua, false);
        }
        match random.below(100) {
            0..=39 => self.ask_write(index, offset, several, fua, false),
            40..=44 => self.ask_write(index, extent, extent_bytes.min(size_bytes - extent), fua, false),
            45..=47 => {
                let length = self.workload.random.between(2, 40) * BLOCK_BYTES;
                self.ask_write(index, offset, length.min(left), fua, false);
            }
            48..=53 => self.ask_part(index, block, fua),
            54..=57 => self.ask_zero(index, Command::Trim, offset, several, fua, false),
            58 => {
                self.ask_zero(
                    index,
                    Command::Trim,
                    extent,
                    extent_bytes.min(size_bytes - extent),
                    fua,
                    false,
                );
            }
            59..=61 => self.ask_zero(index, Command::WriteZeroes, offset, several, fua, false),
            62..=67 => self.ask(index, Command::Flush, (0, 0), false, Vec::new(), &[], false),
            68..=70 => self.ask_read(index, extent, extent_bytes.min(size_bytes - extent), false),
            _ => self.ask_read(index, offset, several, false),
        }
    }

    pub(super) fn ask_write(&mut self, index: usize, offset: u64, length: u64, fua: bool, is_last: bool) {
        let mut values = Vec::new();
        let mut data = BytesMut::with_capacity(length as usize);
        for block in offset / BLOCK_BYTES..(offset + length) / BLOCK_BYTES {
            let value = self.new_value();
            push_registers(block, value, &mut values);
            (0..BLOCK_BYTES / 8).for_each(|_| data.put_u64_le(value));
        }
        self.ask(index, Command::Write, (offset, length as u32), fua, values, &data, is_last);
    }

    /// Some client writes across the end of an extent, and more behind it.
    pub(super) fn write_across(&mut self, segment: usize, extent: u64) {
        let clients = self.connected_clients();
        if clients.is_empty() {
            return;
        }
        let client = self.workload.random.pick(&clients);
        self.ask_write(client, self.end_of(segment, extent) - BLOCK_BYTES, 2 * BLOCK_BYTES, false, false);
        for _ in 0..3 {
            self.ask_something(client);
        }
    }

    /// What follows the end of an extent is read.
    pub(super) fn read_across(&mut self, segment: usize, extent: u64) {
        for client in self.connected_clients() {
            self.ask_read(client, self.end_of(segment, extent), BLOCK_BYTES, false);
        }
    }

    /// All clients ask as much at once as they may.
    pub(super) fn ask_much(&mut self) {
        for client in self.connected_clients() {
            let open = self.clients[client].pending.len();
            (open..self.setup.depth.max(3)).for_each(|_| self.ask_something(client));
        }
    }

    fn end_of(&self, segment: usize, extent: u64) -> u64 {
        segment as u64 * self.setup.segment_bytes + (extent + 1) * EXTENT_BYTES
    }

    /// Those that can ask.
    fn connected_clients(&self) -> Vec<usize> {
        let connected = |client: &usize| self.workload.active && self.clients[*client].is_connected();
        (0..self.clients.len()).filter(connected).collect()
    }

    /// Some cells of a block that is written in parts: the next such one.
    fn ask_part(&mut self, index: usize, block: u64, fua: bool) {
        let block =
            (0..7).map(|step| block + step).find(|block| is_written_in_parts(*block)).unwrap_or(block);
        let cell = self.workload.random.below(CELLS);
        let cells = self.workload.random.between(1, CELLS - cell);
        let offset = block * BLOCK_BYTES + cell * CELL_BYTES;
        if offset + cells * CELL_BYTES > self.clients[index].size_bytes {
            return;
        }
        let zero = self.workload.random.permille(200);
        let value = if zero { 0 } else { self.new_value() };
        let values = (cell..cell + cells).map(|cell| (CELLS_FROM + block * CELLS + cell, value)).collect();
        let range = (offset, (cells * CELL_BYTES) as u32);
        if zero {
            return self.ask(index, Command::WriteZeroes, range, fua, values, &[], false);
        }
        let mut data = BytesMut::new();
        (0..cells * CELL_BYTES / 8).for_each(|_| data.put_u64_le(value));
        self.ask(index, Command::Write, range, fua, values, &data, false);
    }

    pub(super) fn ask_zero(
        &mut self,
        index: usize,
        command: Command,
        offset: u64,
        length: u64,
        fua: bool,
        is_last: bool,
    ) {
        let mut values = Vec::new();
        for block in offset / BLOCK_BYTES..(offset + length) / BLOCK_BYTES {
            push_registers(block, 0, &mut values);
        }
        self.ask(index, command, (offset, length as u32), fua, values, &[], is_last);
    }

    fn ask_read(&mut self, index: usize, offset: u64, length: u64, is_last: bool) {
        self.ask(index, Command::Read, (offset, length as u32), false, Vec::new(), &[], is_last);
    }

    /// Reads everything, for the last round.
    pub(crate) fn read_everything(&mut self) {
        let (index, size_bytes) = self.widest();
        for offset in (0..size_bytes).step_by(EXTENT_BYTES as usize) {
            self.ask_read(index, offset, EXTENT_BYTES.min(size_bytes - offset), true);
        }
    }

    /// Trims everything, for the last round.
    pub(crate) fn trim_everything(&mut self) {
        let (index, size_bytes) = self.widest();
        self.ask(index, Command::Trim, (0, size_bytes as u32), true, Vec::new(), &[], true);
    }

    /// The client that knows the greatest size of the volume: the others connected before it grew. Nobody has written beyond.
    pub(super) fn widest(&self) -> (usize, u64) {
        let sizes = self.clients.iter().map(|client| client.size_bytes).enumerate();
        sizes.max_by_key(|(index, size_bytes)| (*size_bytes, std::cmp::Reverse(*index))).expect("a client")
    }

    #[expect(clippy::too_many_arguments, reason = "a request's own fields")]
    fn ask(
        &mut self,
        index: usize,
        command: Command,
        range: (u64, u32),
        fua: bool,
        values: Vec<(u64, u64)>,
        data: &[u8],
        is_last: bool,
    ) {
        let start = self.now;
        let client = &mut self.clients[index];
        let Some(conn) = client.conn else { return };
        client.next_cookie += 1;
        let cookie = client.next_cookie;
        let fua = fua && command != Command::Read && command != Command::Flush;
        let bytes = client.nbd.request(command, cookie, fua, range, data);
        client.pending.insert(
            cookie,
            Pending { command, fua, offset: range.0, length: u64::from(range.1), start, values, is_last },
        );
        self.workload.asked += 1;
        self.workload.last_open += u64::from(is_last);
        self.send_on(conn, CALLER, bytes);
    }

    fn new_value(&mut self) -> u64 {
        self.workload.next_value += 1;
        self.workload.next_value
    }
}

/// What a client is told, or is about to be.
fn told(pending: &Pending, epoch: u64, end: Nanos) -> Acknowledged<'_> {
    Acknowledged { epoch, start: pending.start, end, values: &pending.values, durable: pending.fua }
}

fn push_registers(block: u64, value: u64, values: &mut Vec<(u64, u64)>) {
    if is_written_in_parts(block) {
        values.extend((0..CELLS).map(|cell| (CELLS_FROM + block * CELLS + cell, value)));
    } else {
        values.push((block, value));
    }
}

/// What the registers of what was read hold.
pub(crate) fn registers(offset: u64, data: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let mut values = Vec::new();
    for (index, bytes) in data.chunks(BLOCK_BYTES as usize).enumerate() {
        let block = offset / BLOCK_BYTES + index as u64;
        if is_written_in_parts(block) {
            for (cell, bytes) in bytes.chunks(CELL_BYTES as usize).enumerate() {
                values.push((CELLS_FROM + block * CELLS + cell as u64, value_of(block, bytes)?));
            }
        } else {
            values.push((block, value_of(block, bytes)?));
        }
    }
    Ok(values)
}

/// A block is written whole, and so it is read: all of it shows one value.
fn value_of(block: u64, bytes: &[u8]) -> Result<u64, String> {
    let mut words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    let first = words.next().unwrap_or_default();
    match words.find(|word| *word != first) {
        None => Ok(first),
        Some(other) => Err(format!("block {block} is torn: it shows {first} and {other}")),
    }
}
