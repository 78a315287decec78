//! Structured logs on stderr, by `tracing`.
//!
//! Text is for people and says time, level, module, message and fields. JSON is for machines: one object per line, with
//! `role` and `name` first, so that the lines of a whole cluster can be told apart.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What is logged when neither the option nor `RUST_LOG` says.
pub const FILTER_DEFAULT: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The text names no log format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a log format is `text` or `json`")]
pub struct LogFormatError;

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(LogFormatError),
        }
    }
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not of the form `info,quoin_store=debug`.
    #[error("`{filter}` is no log filter: {reason}")]
    Filter {
        /// The text in question.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A logger is installed already.
    #[error("a logger is installed already")]
    Installed,
}

/// Checks a filter without using it.
///
/// # Errors
/// [`LoggingError::Filter`].
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    parse(filter).map(drop)
}

/// Installs the process's logger, and a panic hook that logs panics in the same form.
///
/// `filter` is the option's; without it `RUST_LOG` holds, without that [`FILTER_DEFAULT`].
///
/// # Errors
/// The filter is malformed, or a logger is installed already.
pub fn init(role: &str, name: &str, format: LogFormat, filter: Option<&str>) -> Result<(), LoggingError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = parse(filter.or(from_environment.as_deref()).unwrap_or(FILTER_DEFAULT))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            let named = Named::new(role, name);
            builder.with_ansi(false).fmt_fields(JsonFields::new()).event_format(named).try_init()
        }
    };
    installed.map_err(|_| LoggingError::Installed)?;
    std::panic::set_hook(Box::new(log_panic));
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    match format {
        LogFormat::Text => tracing::info!(role, name, version, pid, "starting"),
        LogFormat::Json => tracing::info!(version, pid, "starting"),
    }
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LoggingError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(message, location, %backtrace, "panic");
}

/// JSON lines that begin with the role and the name.
struct Named {
    prefix: String,
    inner: Format<Json>,
}

impl Named {
    fn new(role: &str, name: &str) -> Self {
        let prefix = format!("{{\"role\":{},\"name\":{},", quoted(role), quoted(name));
        Self { prefix, inner: Format::default().json().flatten_event(true) }
    }
}

impl<S, N> FormatEvent<S, N> for Named
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<Json>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&self.prefix)?;
        writer.write_str(line.strip_prefix('{').unwrap_or(&line))
    }
}

/// A JSON string. Roles and names are checked by the binary, but a log line must stay one line whatever they hold.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_names_its_process_and_keeps_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(Named::new("storage-node", "no\"de\n1"))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(bytes = 4096, "stored"));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["role"], "storage-node");
        assert_eq!(line["name"], "no\"de\n1");
        assert_eq!(line["message"], "stored");
        assert_eq!(line["bytes"], 4096);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn filters_are_checked() {
        assert!(check_filter("info,quoin_store=debug").is_ok());
        let error = check_filter("quoin_store=loud").unwrap_err();
        assert!(error.to_string().contains("quoin_store=loud"), "{error}");
    }
}
