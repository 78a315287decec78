//! The options of the roles.
//!
//! An option is declared once, in an [`options!`] block: its key in TOML, from which the flag follows (`data_dir`,
//! `--data-dir`), its `QUOIN_…` variable, its type, its default and its help. A flag is stronger than a variable, a variable
//! stronger than the file, the file stronger than the default.

pub(crate) mod gateway;
pub(crate) mod manager;
pub(crate) mod setting;
pub(crate) mod storage_node;
#[cfg(test)]
mod tests;

use crate::failure::Failure;
use crate::units::duration::Period;
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::de::DeserializeOwned;
use setting::{LogFilter, Setting, Source, Text};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Declares a role's options: a struct for clap and serde (`$raw`), and one with the layers merged (`$merged`).
macro_rules! options {
    ($raw:ident, $merged:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $kind:ty = $variable:literal, $value:literal $(, default $default:literal)?;)+
    }) => {
        /// What was given, on the command line or in a file.
        #[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $raw {
            $(
                #[arg(
                    long,
                    env = $variable,
                    hide_env_values = true,
                    value_name = $value,
                    help = concat!($($doc),+ $(, " [default: ", $default, "]")?).trim_start()
                )]
                $key: Option<$crate::options::setting::Text>,
            )+
        }

        /// The options with all layers merged.
        #[derive(Debug)]
        pub(crate) struct $merged {
            $($(#[doc = $doc])+ pub(crate) $key: $crate::options::setting::Setting<$kind>,)+
        }

        impl $crate::options::Options for $raw {
            type Merged = $merged;

            fn merge(self, matches: &clap::ArgMatches, file: Option<(Self, std::path::PathBuf)>) -> $merged {
                let (file, path) = file.unwrap_or_default();
                $merged {
                    $($key: $crate::options::setting::Setting::of($crate::options::setting::Layers {
                        key: stringify!($key),
                        variable: $variable,
                        given: $crate::options::given(matches, stringify!($key), $variable, self.$key),
                        file: file.$key.map(|text| (text, $crate::options::setting::Source::File(path.clone()))),
                        default: None $(.or(Some($default)))?,
                    }),)+
                }
            }
        }
    };
}
pub(crate) use options;

/// A role's options as given, ready to be merged.
pub(crate) trait Options: DeserializeOwned {
    /// The options with all layers merged.
    type Merged;

    /// Merges what clap found with what the file says.
    fn merge(self, matches: &ArgMatches, file: Option<(Self, PathBuf)>) -> Self::Merged;
}

/// A role's command line: its options and the file that holds the rest of them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RoleArgs<O: clap::Args> {
    /// The configuration file (TOML). A flag or a QUOIN_… variable is stronger than the file
    #[arg(long, env = "QUOIN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: O,
}

impl<O: Options + clap::Args> RoleArgs<O> {
    /// Reads the file, if there is one, and merges. `matches` are those of the role's subcommand.
    pub(crate) fn load(self, matches: &ArgMatches) -> Result<O::Merged, Failure> {
        let file = match self.config {
            Some(path) => Some((read(&path)?, path)),
            None => None,
        };
        Ok(self.options.merge(matches, file))
    }
}

/// How a role logs.
#[derive(Debug)]
pub(crate) struct Logging {
    pub(crate) filter: Option<String>,
    pub(crate) format: quoin_service::logging::LogFormat,
}

impl Logging {
    fn of(
        filter: &Setting<LogFilter>,
        format: &Setting<quoin_service::logging::LogFormat>,
    ) -> Result<Self, Failure> {
        Ok(Self { filter: filter.optional()?.map(|filter| filter.0), format: format.get()? })
    }
}

/// How long the thread of a gateway or a storage node polls.
fn busy_poll(setting: &Setting<Period>) -> Result<Duration, Failure> {
    let is_good = |period: &Period| period.0 <= Duration::from_millis(10);
    Ok(setting.get_if(is_good, "at most 10ms, or 0s for not at all")?.0)
}

fn read<O: Options>(path: &Path) -> Result<O, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::bad_usage(format!("option `config`: cannot read {}: {error}", path.display()))
            .hint("deploy/config has an example for each role")
    })?;
    toml::from_str(&text).map_err(|error| {
        Failure::bad_usage(format!("the file {} is not understood: {error}", path.display()))
            .hint("`quoin <role> --help` lists the options; in a file they are written with `_` for `-`")
    })
}

/// What clap found for an option, and whether on the command line or in the environment.
fn given(
    matches: &ArgMatches,
    key: &str,
    variable: &'static str,
    text: Option<Text>,
) -> Option<(Text, Source)> {
    let source = match matches.value_source(key) {
        Some(ValueSource::EnvVariable) => Source::Variable(variable),
        _ => Source::Flag(format!("--{}", key.replace('_', "-"))),
    };
    text.map(|text| (text, source))
}
