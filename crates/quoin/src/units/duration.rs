//! Durations: `500ms`, `2s`, `10m`.

use std::str::FromStr;
use std::time::Duration;

/// A length of time. Read from text with its unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Period(pub(crate) Duration);

/// The text is no duration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a duration is a number with a unit: 500ms, 2s, 10m, 1h")]
pub(crate) struct PeriodError;

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = super::split_unit(text);
        let nanos: u64 = match unit {
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(PeriodError),
        };
        super::scaled(number, nanos).map(|nanos| Period(Duration::from_nanos(nanos))).ok_or(PeriodError)
    }
}

/// A length of time in at most two units: `350 ms`, `12 s`, `2 m 10 s`, `1 h 5 m`, `3 d 4 h`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1.5s", 1_500),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("2 s", 2_000),
        ] {
            assert_eq!(text.parse(), Ok(Period(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "5", "s", "-1s", "5 fortnights", "1e3s", "99999999999h"] {
            assert_eq!(text.parse::<Period>(), Err(PeriodError), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_in_at_most_two_units() {
        for (seconds, text) in
            [(59, "59 s"), (60, "1 m"), (130, "2 m 10 s"), (3_900, "1 h 5 m"), (90_000, "1 d 1 h")]
        {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
        assert_eq!(human(Duration::from_millis(350)), "350 ms");
    }
}
