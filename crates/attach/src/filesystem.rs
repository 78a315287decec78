//! What is on a device, and what may be done about it: nothing that holds anything is ever formatted.
//!
//! The tools of the system do the work: `blkid` looks, `mkfs` makes, `mount` mounts. This module judges.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

/// How much of a device's beginning and end must be zero before it counts as empty. Whatever has a name begins within.
const LOOKED_AT_BYTES: u64 = 4 << 20;

/// A filesystem that can be made here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Kind {
    /// The program that makes it on a device that is known to be empty, so that nothing has to be discarded.
    pub fn format(self, device: &Path) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-E", "nodiscard"]),
            // Sectors of a block's size: the log is then written in whole blocks.
            Kind::Xfs => ("mkfs.xfs", &["-q", "-K", "-s", "size=4096"]),
        };
        let mut command = system(program);
        command.args(arguments).arg(device);
        command
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        })
    }
}

/// The text names no filesystem that can be made here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a filesystem is `ext4` or `xfs`")]
pub struct KindError;

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ext4" => Ok(Kind::Ext4),
            "xfs" => Ok(Kind::Xfs),
            _ => Err(KindError),
        }
    }
}

/// What is on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing: zeros at both ends.
    Empty,
    /// A filesystem.
    Filesystem(String),
    /// Something with a name that cannot be mounted: a partition table, an encrypted volume, a part of an array.
    Other(String),
    /// Data without a name.
    Unknown,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Mount what is there.
    Mount(String),
    /// Make a filesystem, then mount it.
    Format(Kind),
}

/// Why nothing is done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another filesystem is there.
    #[error("it holds {found}, not {wanted}")]
    OtherKind {
        /// What is there.
        found: String,
        /// What was asked for.
        wanted: Kind,
    },
    /// It holds something that cannot be mounted.
    #[error("it holds {0}, which cannot be mounted as it is")]
    NotMountable(String),
    /// It holds something.
    #[error("it holds data, but no filesystem that is known here")]
    Unknown,
    /// There is nothing, and nothing may be made.
    #[error("it is empty, and read-only")]
    EmptyReadOnly,
}

/// What to do with a device that holds this.
///
/// # Errors
///
/// A [`Refusal`] wherever something could be lost.
pub fn plan(content: &Content, wanted: Option<Kind>, read_only: bool) -> Result<Plan, Refusal> {
    match (content, wanted) {
        (Content::Empty, _) if read_only => Err(Refusal::EmptyReadOnly),
        (Content::Empty, wanted) => Ok(Plan::Format(wanted.unwrap_or(Kind::Ext4))),
        (Content::Filesystem(found), Some(wanted)) if *found != wanted.to_string() => {
            Err(Refusal::OtherKind { found: found.clone(), wanted })
        }
        (Content::Filesystem(found), _) => Ok(Plan::Mount(found.clone())),
        (Content::Other(found), _) => Err(Refusal::NotMountable(found.clone())),
        (Content::Unknown, _) => Err(Refusal::Unknown),
    }
}

/// Looks at a device.
///
/// # Errors
///
/// It cannot be read, or `blkid` cannot be run or does not say anything clear.
pub fn look(device: &Path) -> io::Result<Content> {
    let output = system("blkid").args(["-p", "-o", "export"]).arg(device).output()?;
    match output.status.code() {
        Some(0) => Ok(named(&String::from_utf8_lossy(&output.stdout))),
        // Nothing that it knows.
        Some(2) if is_zero_at_both_ends(device)? => Ok(Content::Empty),
        Some(2) => Ok(Content::Unknown),
        _ => Err(io::Error::other(format!(
            "blkid: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

/// Reads `blkid -o export`: `KEY=VALUE` lines.
fn named(text: &str) -> Content {
    let value = |wanted: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find_map(|(key, value)| (key == wanted).then(|| value.to_owned()))
    };
    match (value("USAGE").as_deref(), value("TYPE"), value("PTTYPE")) {
        (Some("filesystem"), Some(kind), _) => Content::Filesystem(kind),
        (_, Some(kind), _) => Content::Other(kind),
        (_, None, Some(table)) => Content::Other(format!("a partition table ({table})")),
        _ => Content::Unknown,
    }
}

fn is_zero_at_both_ends(device: &Path) -> io::Result<bool> {
    let file = File::open(device)?;
    let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
    let length = LOOKED_AT_BYTES.min(size);
    let mut bytes = vec![0; usize::try_from(length).expect("a few MiB")];
    for at in [0, size - length] {
        file.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A program of the system. Those that only root has on its path are found, too.
pub fn system(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_holds_anything_is_formatted() {
        let filesystem = |name: &str| Content::Filesystem(name.to_owned());
        assert_eq!(plan(&Content::Empty, None, false), Ok(Plan::Format(Kind::Ext4)));
        assert_eq!(plan(&Content::Empty, Some(Kind::Xfs), false), Ok(Plan::Format(Kind::Xfs)));
        assert_eq!(plan(&Content::Empty, None, true), Err(Refusal::EmptyReadOnly));
        assert_eq!(plan(&filesystem("xfs"), None, false), Ok(Plan::Mount("xfs".into())));
        assert_eq!(plan(&filesystem("btrfs"), None, false), Ok(Plan::Mount("btrfs".into())));
        assert_eq!(plan(&filesystem("xfs"), Some(Kind::Xfs), true), Ok(Plan::Mount("xfs".into())));
        for (content, wanted) in [
            (filesystem("xfs"), Some(Kind::Ext4)),
            (Content::Other("LVM2_member".into()), None),
            (Content::Other("LVM2_member".into()), Some(Kind::Ext4)),
            (Content::Unknown, None),
            (Content::Unknown, Some(Kind::Xfs)),
        ] {
            assert!(plan(&content, wanted, false).is_err(), "{content:?} {wanted:?}");
        }
    }

    #[test]
    fn what_blkid_says_is_understood() {
        assert_eq!(
            named("DEVNAME=/dev/nbd0\nUUID=1\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n"),
            Content::Filesystem("ext4".into())
        );
        assert_eq!(named("TYPE=crypto_LUKS\nUSAGE=crypto\n"), Content::Other("crypto_LUKS".into()));
        assert_eq!(named("PTTYPE=gpt\n"), Content::Other("a partition table (gpt)".into()));
        assert_eq!(named("AMBIVALENT=1\n"), Content::Unknown);
    }

    #[test]
    fn a_device_is_looked_at() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        assert_eq!(look(file.path()).unwrap(), Content::Empty);
        file.as_file().write_all_at(b"x", (64 << 20) - 1).unwrap();
        assert_eq!(look(file.path()).unwrap(), Content::Unknown);
        file.as_file().write_all_at(b"\0", (64 << 20) - 1).unwrap();
        let made = Kind::Ext4.format(file.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        assert_eq!(look(file.path()).unwrap(), Content::Filesystem("ext4".into()));
        assert!(look(Path::new("/nonexistent")).is_err());
    }
}
