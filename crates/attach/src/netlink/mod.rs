//! The kernel's NBD client, spoken to by generic netlink (`include/uapi/linux/nbd-netlink.h`, family `nbd`).
//!
//! [`message`] is bytes; this is the socket: each call asks once and waits for the kernel's answer, which comes at once.

pub mod message;

use crate::Error;
use crate::device::Device;
use message::{Connect, Message};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A socket to the kernel's NBD client.
pub struct Control {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Control {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`Error::NoModule`] if the kernel knows no NBD client.
    pub fn open() -> Result<Self, Error> {
        let socket = connected().map_err(Error::io("open a netlink socket"))?;
        let mut control = Self { socket, family: 0, sequence: 0 };
        let question = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(Message::family_name().to_owned())],
        };
        let answers = control.ask(GenlMessage::from_payload(question));
        let answers = answers.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Error::NoModule,
            _ => Error::Kernel { action: "look for its NBD client", error },
        })?;
        let attributes = answers.iter().flat_map(|answer: &GenlCtrl| &answer.nlas);
        control.family = attributes
            .filter_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            })
            .next()
            .ok_or(Error::NoModule)?;
        Ok(control)
    }

    /// Makes a device; gives the one that it became.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceInUse`], [`Error::NoDevice`] if one was named, [`Error::NotPermitted`], or what else the kernel says.
    pub fn connect(&mut self, connect: &Connect<'_>, sockets: &[BorrowedFd<'_>]) -> Result<Device, Error> {
        let sockets: Vec<u32> = sockets.iter().map(descriptor).collect();
        let answers = self.ask_nbd(Message::connect(connect, &sockets)).map_err(|error| {
            let named = connect.index.map(Device);
            match (Errno::from_io_error(&error), named) {
                (Some(Errno::BUSY), Some(device)) => Error::DeviceInUse(device),
                (Some(Errno::NODEV | Errno::NXIO), Some(device)) => Error::NoDevice(device),
                _ => refused("attach a device")(error),
            }
        })?;
        let index = answers.iter().find_map(Message::index).or(connect.index);
        index.map(Device).ok_or_else(|| Error::Kernel {
            action: "tell which device it has attached",
            error: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Gives a device sockets in place of its dead ones; those beyond are closed by the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EINVAL` if the device is not attached, or as another one.
    pub fn reconnect(
        &mut self,
        device: Device,
        backend: &str,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let sockets: Vec<u32> = sockets.iter().map(descriptor).collect();
        let message = Message::reconfigure(device.0, backend, &sockets);
        self.ask_nbd(message).map(drop).map_err(refused("reconnect the device"))
    }

    /// Ends a device, whoever uses it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn disconnect(&mut self, device: Device) -> Result<(), Error> {
        self.ask_nbd(Message::disconnect(device.0)).map(drop).map_err(refused("detach the device"))
    }

    /// Whether the device is attached, by anybody.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn is_connected(&mut self, device: Device) -> Result<bool, Error> {
        let answers = self.ask_nbd(Message::status(device.0)).map_err(refused("tell about the device"))?;
        Ok(answers.iter().flat_map(Message::devices).any(|(index, connected)| index == device.0 && connected))
    }

    fn ask_nbd(&mut self, message: Message) -> io::Result<Vec<Message>> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        self.ask(message)
    }

    /// Sends a request and collects the answers up to the acknowledgement.
    fn ask<F>(&mut self, message: GenlMessage<F>) -> io::Result<Vec<F>>
    where
        F: GenlFamily + Emitable + Debug + ParseableParametrized<[u8], GenlHeader>,
    {
        self.sequence += 1;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest).map_err(garbled)?.length() as usize;
                let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(garbled)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message.payload),
                    _ => {}
                }
            }
        }
    }
}

fn connected() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn descriptor(socket: &BorrowedFd<'_>) -> u32 {
    u32::try_from(socket.as_raw_fd()).expect("an open descriptor is not negative")
}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => Error::NotPermitted,
        _ => Error::Kernel { action, error },
    }
}

fn garbled(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer that is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks the kernel for a family that every kernel has: the conversation itself, without an NBD client.
    #[test]
    fn the_kernel_answers() {
        let mut control = Control { socket: connected().unwrap(), family: 0, sequence: 0 };
        let ask = |name: &str| {
            let nlas = vec![GenlCtrlAttrs::FamilyName(name.to_owned())];
            GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas })
        };
        let answers = control.ask(ask("nlctrl")).unwrap();
        assert!(
            answers.iter().flat_map(|answer| &answer.nlas).any(|nla| *nla == GenlCtrlAttrs::FamilyId(16))
        );
        let error = control.ask(ask("no-such-family")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
    }
}
