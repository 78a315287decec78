//! What a device began with, and whether it may go on with what the gateway has now.

use quoin_nbd::AttachmentInfo;
use quoin_types::{ClusterId, Epoch, VolumeId};
use std::fmt;
use std::str::FromStr;

/// The attachment that a device was made under: all that the kernel has cached of the volume was read and written since.
///
/// It stays the same as long as the device. Were it to follow the attachments that the device goes on with, a device that had
/// gone on with one that then turns out to be lossy (rule A2) would take that one for its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume in it.
    pub volume: VolumeId,
    /// The attachment's number.
    pub epoch: Epoch,
}

impl Origin {
    /// Whether what the kernel has cached is true under this attachment as well: it is the same volume, no other gateway had
    /// it for clients since, and nothing was lost (rules A2, C4).
    pub fn is_continued_by(self, now: &AttachmentInfo) -> bool {
        let is_same = now.cluster == self.cluster.0 && now.volume == self.volume.0;
        // Managers that give lower numbers than before were set back, and do not know what was in between.
        is_same && (now.unbroken_since..=now.epoch).contains(&self.epoch.0)
    }
}

impl From<AttachmentInfo> for Origin {
    fn from(now: AttachmentInfo) -> Self {
        Self { cluster: ClusterId(now.cluster), volume: VolumeId(now.volume), epoch: Epoch(now.epoch) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.cluster, self.volume, self.epoch)
    }
}

/// The text names no attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let cluster = parts.next().and_then(|part| part.parse().ok()).ok_or(OriginError)?;
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(OriginError);
        let (volume, epoch) = (VolumeId(number()?), Epoch(number()?));
        parts.next().is_none().then_some(Self { cluster, volume, epoch }).ok_or(OriginError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_on_with_its_own_run_alone() {
        let now =
            |unbroken_since, epoch| AttachmentInfo { cluster: [1; 16], volume: 7, epoch, unbroken_since };
        let origin = Origin::from(now(2, 5));
        for (since, epoch) in [(2, 5), (5, 5), (5, 6), (1, 100)] {
            assert!(origin.is_continued_by(&now(since, epoch)), "{since}..={epoch}");
        }
        for (since, epoch) in [(6, 6), (6, 100), (1, 4), (4, 4)] {
            assert!(!origin.is_continued_by(&now(since, epoch)), "{since}..={epoch}");
        }
        assert!(!origin.is_continued_by(&AttachmentInfo { volume: 8, ..now(1, 9) }), "made anew by its name");
        assert!(!origin.is_continued_by(&AttachmentInfo { cluster: [2; 16], ..now(1, 9) }));
    }

    #[test]
    fn origins_are_read_as_they_are_written() {
        let origin = Origin { cluster: ClusterId([0xa0; 16]), volume: VolumeId(3), epoch: Epoch(u64::MAX) };
        assert_eq!(origin.to_string(), format!("{}.3.{}", "a0".repeat(16), u64::MAX));
        assert_eq!(origin.to_string().parse(), Ok(origin));
        let digits = "a0".repeat(16);
        for bad in ["", "a0.1.2", &digits, &format!("{digits}.1"), &format!("{digits}.1.2.3")] {
            assert_eq!(bad.parse::<Origin>(), Err(OriginError), "{bad}");
        }
    }
}
