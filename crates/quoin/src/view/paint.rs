//! Colours, on a terminal only.

use owo_colors::OwoColorize;
use std::io::IsTerminal;

/// Paints words, or leaves them as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    coloured: bool,
}

/// How good the news is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mood {
    Good,
    Plain,
    Watch,
    Bad,
}

impl Paint {
    /// Colours if stdout is a terminal and `NO_COLOR` (no-color.org) is not set.
    pub(crate) fn for_stdout() -> Self {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: std::io::stdout().is_terminal() && !is_refused }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { coloured: false }
    }

    pub(crate) fn mood(self, mood: Mood, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        match mood {
            Mood::Good => text.green().to_string(),
            Mood::Plain => text.to_owned(),
            Mood::Watch => text.yellow().to_string(),
            Mood::Bad => text.red().bold().to_string(),
        }
    }

    pub(crate) fn heading(self, text: &str) -> String {
        if self.coloured { text.bold().to_string() } else { text.to_owned() }
    }
}
