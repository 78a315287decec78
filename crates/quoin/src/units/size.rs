//! Sizes: `4GiB`, `512MiB`, `1.5T`, plain bytes.

use std::fmt;
use std::str::FromStr;

const UNITS: [(&str, u64); 6] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes. Read from text as people write it, shown in the largest unit that keeps it short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Size(pub(crate) u64);

/// The text is no size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a size is a number of bytes, with a unit or without: 4GiB, 512MiB, 4096")]
pub(crate) struct SizeError;

impl FromStr for Size {
    type Err = SizeError;

    /// `K`, `M`, `G`, `T`, `P`, with `iB` or without, count in 1024s, as `qemu-img` has it; `KB`, `MB`, `GB` in 1000s.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = super::split_unit(text);
        let unit: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "p" | "pib" => 1 << 50,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(SizeError),
        };
        super::scaled(number, unit).map(Size).ok_or(SizeError)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS.into_iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(("B", 1));
        if self.0.is_multiple_of(unit) {
            return f.pad(&format!("{} {name}", self.0 / unit));
        }
        f.pad(&format!("{:.1} {name}", self.0 as f64 / unit as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("4GiB", 4 << 30),
            ("4 GiB", 4 << 30),
            ("4G", 4 << 30),
            ("4gib", 4 << 30),
            ("512MiB", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("0.5K", 512),
            ("1GB", 1_000_000_000),
            ("64 KiB", 65536),
            ("16777215TiB", 16_777_215 << 40),
            ("100B", 100),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "GiB", "-1", "4 Gi B", "4XiB", "1.", ".5G", "1.2.3G", "1e9", "0.3", "16777216TiB", "4GiBs"]
        {
            assert_eq!(text.parse::<Size>(), Err(SizeError), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_fitting_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (4 << 30, "4 GiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Size(4096)), "   4 KiB");
    }
}
