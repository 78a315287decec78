//! Why a volume could not be attached or detached.

use crate::device::Device;
use quoin_nbd::client::OpenError;
use std::io;

/// Why a volume could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no NBD client, or not loaded.
    #[error("the kernel's NBD client is not there (the module `nbd` is not loaded)")]
    NoModule,
    /// It needs root, or CAP_SYS_ADMIN.
    #[error("only root may attach and detach disks")]
    NotPermitted,
    /// The kernel does not keep the device's identity.
    #[error("this kernel is too old: its NBD client does not keep a backend identifier")]
    OldKernel,
    /// Nobody answers where the gateway should be.
    #[error("no gateway answers at {address}: {error}")]
    NoGateway {
        /// Where.
        address: String,
        /// What happened.
        error: io::Error,
    },
    /// The gateway does not open the volume.
    #[error("the gateway at {address} does not open volume {volume}: {error}")]
    Open {
        /// Where.
        address: String,
        /// Which.
        volume: String,
        /// Why.
        error: OpenError,
    },
    /// The gateway has the volume, but not as the device had it.
    #[error(
        "volume {0} was with another gateway meanwhile, has lost writes or is another volume by now: what this machine has \
         cached of it may be wrong"
    )]
    Interrupted(String),
    /// The gateway does not tell whether it has the volume as the device had it.
    #[error(
        "the gateway at {address} does not say since when it has volume {volume}, as one of a later version has done before"
    )]
    Untold {
        /// Where.
        address: String,
        /// Which.
        volume: String,
    },
    /// Several connections were asked for, and the export is not made for them.
    #[error("the gateway does not allow several connections to one volume")]
    OneConnectionOnly,
    /// The device is in use by something else.
    #[error("{0} is in use already")]
    DeviceInUse(Device),
    /// There is no such device.
    #[error("there is no device {0}")]
    NoDevice(Device),
    /// Another process attends to the volume.
    #[error(
        "volume {volume} is attached on this machine already{}{}",
        words(" as ", device),
        words(", by process ", pid)
    )]
    AttachedHere {
        /// Which.
        volume: String,
        /// Where, if it is done.
        device: Option<Device>,
        /// By whom, if known.
        pid: Option<u32>,
    },
    /// It is another volume's.
    #[error("volume {volume} is {device}, not {asked}")]
    OtherDevice {
        /// Which.
        volume: String,
        /// Where it is.
        device: Device,
        /// Where it should be.
        asked: Device,
    },
    /// It is mounted, or used by LVM, swap or the like.
    #[error("{0} is mounted or used otherwise")]
    Busy(Device),
    /// No process attends to it.
    #[error("no process attends to {0}: its requests wait")]
    Unattended(Device),
    /// It did not go.
    #[error("{0} is still there {1} s after the kernel was told to give it up")]
    Stuck(Device, u64),
    /// The kernel said no.
    #[error("the kernel refused to {action}: {error}")]
    Kernel {
        /// What it was asked for.
        action: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// Something else of the operating system.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What happened.
        error: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        |error| match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::Io { action, error },
        }
    }
}

fn words(before: &str, what: &Option<impl std::fmt::Display>) -> String {
    what.as_ref().map(|what| format!("{before}{what}")).unwrap_or_default()
}
