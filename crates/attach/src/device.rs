//! The kernel's NBD devices, as `/sys/block` shows them: which of them are volumes, and whether somebody uses them.
//!
//! What is attached is known from the kernel alone: each device carries its volume's name and gateway as its backend
//! identifier. So there is no state that could be wrong after a crash.

use crate::lock;
use crate::origin::Origin;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What backend identifiers of volumes begin with.
const SCHEME: &str = "quoin:";
const SECTOR_BYTES: u64 = 512;

/// `/dev/nbdN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Device(pub u32);

impl Device {
    /// Its file.
    pub fn path(self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// Whether nobody has mounted it, nor uses it for LVM, swap or the like.
    ///
    /// # Errors
    ///
    /// It cannot be opened for another reason.
    pub fn is_free(self) -> io::Result<bool> {
        // A block device that somebody has claimed is not opened exclusively.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::EXCL.bits().cast_signed());
        match options.open(self.path()) {
            Ok(_) => Ok(true),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes all that was written to it durable.
    ///
    /// # Errors
    ///
    /// As for any `fsync`.
    pub fn sync(self) -> io::Result<()> {
        File::open(self.path())?.sync_all()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/nbd{}", self.0)
    }
}

/// The text names no NBD device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an NBD device is written like /dev/nbd0")]
pub struct DeviceError;

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        let digits = name.strip_prefix("nbd").ok_or(DeviceError)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| is_number);
        number.map(Device).ok_or(DeviceError)
    }
}

/// What a device of ours is, in one line that the kernel keeps with it: `quoin:GATEWAY#ORIGIN/VOLUME`. It cannot be changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// The gateway, `host:port`.
    pub gateway: String,
    /// The volume's name.
    pub volume: String,
    /// What it began with. A gateway of before that was known has not said, and no `#` stands there.
    pub origin: Option<Origin>,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.gateway)?;
        if let Some(origin) = &self.origin {
            write!(f, "#{origin}")?;
        }
        write!(f, "/{}", self.volume)
    }
}

impl FromStr for Backend {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (gateway, volume) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(NotOurs)?;
        let (gateway, origin) = match gateway.split_once('#') {
            Some((gateway, origin)) => (gateway, Some(origin.parse().map_err(|_| NotOurs)?)),
            None => (gateway, None),
        };
        Ok(Self { gateway: gateway.to_owned(), volume: volume.to_owned(), origin })
    }
}

/// The backend identifier is not one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOurs;

/// A volume that is a device of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Which device.
    pub device: Device,
    /// Which volume, and where.
    pub backend: Backend,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// Its connections, as far as the kernel uses them: no more than it has processors.
    pub connections: u32,
    /// Where it is mounted, in this process's view.
    pub mounted_at: Vec<PathBuf>,
    /// The process that attends to it. Without one, requests wait.
    pub pid: Option<u32>,
}

/// Where the system shows what this module looks at. Tests have their own.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/sys/block`.
    pub sys_block: PathBuf,
    /// `/proc/self/mountinfo`.
    pub mounts: PathBuf,
    /// Where the locks are.
    pub run: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            sys_block: "/sys/block".into(),
            mounts: "/proc/self/mountinfo".into(),
            run: lock::DIRECTORY.into(),
        }
    }
}

impl Places {
    /// All volumes that are devices of this machine, by device.
    ///
    /// # Errors
    ///
    /// `/sys` or `/proc` cannot be read.
    pub fn attached(&self) -> io::Result<Vec<Attached>> {
        let mounts = fs::read_to_string(&self.mounts)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.sys_block)? {
            let name = entry?.file_name();
            let device = name.to_str().and_then(|name| name.parse().ok());
            found.extend(device.and_then(|device| self.look(device, &mounts)));
        }
        found.sort_unstable_by_key(|attached: &Attached| attached.device);
        Ok(found)
    }

    /// The device that a volume is, if it is one.
    ///
    /// # Errors
    ///
    /// As [`attached`](Self::attached).
    pub fn find(&self, volume: &str) -> io::Result<Option<Attached>> {
        Ok(self.attached()?.into_iter().find(|attached| attached.backend.volume == volume))
    }

    /// The device's backend identifier, if it has one.
    pub fn backend(&self, device: Device) -> Option<String> {
        let text = fs::read_to_string(self.directory(device).join("backend")).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }

    /// After how long the kernel sends an unanswered request to the device again.
    pub fn timeout(&self, device: Device) -> Option<Duration> {
        let text = fs::read_to_string(self.directory(device).join("queue/io_timeout")).ok()?;
        text.trim().parse().ok().map(Duration::from_millis)
    }

    fn directory(&self, device: Device) -> PathBuf {
        self.sys_block.join(format!("nbd{}", device.0))
    }

    /// `None` if the device is not ours, or has just gone.
    fn look(&self, device: Device, mounts: &str) -> Option<Attached> {
        let backend: Backend = self.backend(device)?.parse().ok()?;
        let directory = self.directory(device);
        let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let queues = fs::read_dir(directory.join("mq")).map_or(0, Iterator::count);
        Some(Attached {
            device,
            size_bytes: number("size")? * SECTOR_BYTES,
            read_only: number("ro")? != 0,
            connections: u32::try_from(queues).unwrap_or(u32::MAX),
            mounted_at: mount_points(mounts, read("dev")?.trim()),
            pid: lock::holder(&self.run, &backend.volume),
            backend,
        })
    }
}

/// The mount points of a device (`major:minor`) in `mountinfo` (proc(5)).
fn mount_points(mounts: &str, device: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' '));
    let of_device = fields.filter_map(|mut fields| {
        (fields.nth(2)? == device).then_some(())?;
        fields.nth(1)
    });
    of_device.map(|point| PathBuf::from(unescaped(point))).collect()
}

/// `\040` and its like, for characters that would end a field.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_at_checked(3).map(|(digits, rest)| (u8::from_str_radix(digits, 8), rest)) {
            Some((Ok(byte), rest)) => {
                text.push(char::from(byte));
                text.push_str(rest);
            }
            _ => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

/// The device or the volume that a user named.
///
/// # Errors
///
/// As [`Places::attached`].
pub fn named(places: &Places, name: &str) -> io::Result<Option<Attached>> {
    let device: Option<Device> = name.parse().ok();
    let at = Path::new(name);
    Ok(places.attached()?.into_iter().find(|attached| {
        attached.backend.volume == name
            || (name.starts_with("/dev/") && device == Some(attached.device))
            || attached.mounted_at.iter().any(|point| point == at)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        let places =
            Places { sys_block: root.join("block"), mounts: root.join("mountinfo"), run: root.join("run") };
        let nbd3 = places.sys_block.join("nbd3");
        fs::create_dir_all(nbd3.join("mq/0")).unwrap();
        fs::create_dir_all(nbd3.join("mq/1")).unwrap();
        for (file, text) in [
            ("backend", "quoin:10.0.0.1:10809/vol1\n"),
            ("size", "2048\n"),
            ("ro", "0\n"),
            ("dev", "43:96\n"),
        ] {
            fs::write(nbd3.join(file), text).unwrap();
        }
        for other in ["nbd0", "nbd1", "sda"] {
            fs::create_dir_all(places.sys_block.join(other)).unwrap();
        }
        fs::write(places.sys_block.join("nbd1/backend"), "somebody else's\n").unwrap();
        fs::write(
            &places.mounts,
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 43:96 / /mnt/a\\040b rw - ext4 x rw\n",
        )
        .unwrap();
        places
    }

    #[test]
    fn volumes_are_found_among_the_devices() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let found = places.attached().unwrap();
        let expected = Attached {
            device: Device(3),
            backend: Backend { gateway: "10.0.0.1:10809".into(), volume: "vol1".into(), origin: None },
            size_bytes: 1 << 20,
            read_only: false,
            connections: 2,
            mounted_at: vec!["/mnt/a b".into()],
            pid: None,
        };
        assert_eq!(found, [expected]);
        for name in ["vol1", "/dev/nbd3", "/mnt/a b"] {
            assert!(named(&places, name).unwrap().is_some(), "{name}");
        }
        for name in ["vol2", "/dev/nbd1", "nbd3", "/mnt"] {
            assert!(named(&places, name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn devices_and_backends_are_read_as_they_are_written() {
        assert_eq!("/dev/nbd12".parse(), Ok(Device(12)));
        assert_eq!("nbd0".parse(), Ok(Device(0)));
        for bad in ["", "/dev/sda", "/dev/nbd", "/dev/nbd+1", "/dev/nbd1p1", "/dev/nbd99999999999"] {
            assert_eq!(bad.parse::<Device>(), Err(DeviceError), "{bad}");
        }
        let origin = "00112233445566778899aabbccddeeff.7.12";
        for origin in [None, Some(origin.parse().unwrap())] {
            let backend = Backend { gateway: "[::1]:10809".into(), volume: "a/b".into(), origin };
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        let text = format!("quoin:[::1]:10809#{origin}/a");
        assert_eq!(text.parse::<Backend>().unwrap().to_string(), text);
        for bad in ["nbd://x/y", "quoin:x:1#12/y"] {
            assert_eq!(bad.parse::<Backend>(), Err(NotOurs), "{bad}");
        }
        assert_eq!(unescaped("a\\134b\\0409\\x"), "a\\b 9\\x");
    }
}
