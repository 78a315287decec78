//! One option of a role: where its value came from, and what it must look like.

use crate::failure::Failure;
use crate::units::duration::Period;
use crate::units::size::Size;
use quoin_gateway::{ClientCertificates, ListenAddress};
use quoin_service::logging::LogFormat;
use rustix::net::sockopt::set_tcp_congestion;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A value as it was written, not yet understood. In TOML a string, a number, a boolean or a list of them: which one does
/// not matter, so that every option reads alike from file, flag and variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Text(pub(crate) String);

impl FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Text(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, a boolean or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        let mut items = Vec::new();
        while let Some(Text(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Text(items.join(",")))
    }
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Flag(String),
    Variable(&'static str),
    File(PathBuf),
    Default,
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(flag) => write!(f, "from the flag {flag}"),
            Source::Variable(variable) => write!(f, "from the variable {variable}"),
            Source::File(file) => write!(f, "from the file {}", file.display()),
            Source::Default => f.write_str("the default"),
        }
    }
}

/// An option after flag, variable, file and default were weighed, of the type that it must have.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    key: &'static str,
    variable: &'static str,
    given: Option<(String, Source)>,
    kind: PhantomData<T>,
}

/// The layers of one option, the strongest first.
pub(crate) struct Layers {
    pub(crate) key: &'static str,
    pub(crate) variable: &'static str,
    /// From the command line or the environment: clap weighs these two.
    pub(crate) given: Option<(Text, Source)>,
    pub(crate) file: Option<(Text, Source)>,
    pub(crate) default: Option<&'static str>,
}

impl<T> Setting<T> {
    pub(crate) fn of(layers: Layers) -> Self {
        let Layers { key, variable, given, file, default } = layers;
        let default = || default.map(|text| (text.to_owned(), Source::Default));
        let given = given.or(file).map(|(Text(text), source)| (text, source)).or_else(default);
        Self { key, variable, given, kind: PhantomData }
    }

    /// A refusal of the value, naming the option, the value, and where it came from.
    pub(crate) fn refusal(&self, reason: impl Display) -> Failure {
        match &self.given {
            Some((text, source)) => {
                Failure::bad_usage(format!("option `{}` = \"{text}\" ({source}): {reason}", self.key))
            }
            None => Failure::bad_usage(format!("option `{}`: {reason}", self.key)),
        }
    }
}

impl<T: Value> Setting<T> {
    /// The value, if one was given.
    pub(crate) fn optional(&self) -> Result<Option<T>, Failure> {
        let Some((text, _)) = &self.given else { return Ok(None) };
        T::read(text).map(Some).map_err(|reason| self.refusal(reason).hint(T::HINT))
    }

    /// The value; refused if there is none and no default.
    pub(crate) fn get(&self) -> Result<T, Failure> {
        self.optional()?.ok_or_else(|| {
            let flag = self.key.replace('_', "-");
            Failure::bad_usage(format!("option `{}` is required", self.key)).hint(format!(
                "write `{} = …` in the configuration file, or give --{flag}, or set {}",
                self.key, self.variable
            ))
        })
    }

    /// As [`Setting::get`], refused with `reason` unless `holds`.
    pub(crate) fn get_if(&self, holds: impl Fn(&T) -> bool, reason: &str) -> Result<T, Failure> {
        let value = self.get()?;
        if holds(&value) { Ok(value) } else { Err(self.refusal("out of range").hint(reason)) }
    }
}

/// A type that an option can have.
pub(crate) trait Value: Sized {
    /// What a good value looks like.
    const HINT: &'static str;

    /// Reads a value, or says what is wrong with the text.
    fn read(text: &str) -> Result<Self, String>;
}

macro_rules! values {
    ($($kind:ty: $hint:literal),* $(,)?) => {$(
        impl Value for $kind {
            const HINT: &'static str = $hint;

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: <$kind as FromStr>::Err| error.to_string())
            }
        }
    )*};
}

values! {
    u64: "write a whole number, for example 3",
    u32: "write a whole number, for example 3",
    Size: "write for example 4GiB, 512MiB or 4096",
    Period: "write for example 500ms or 2s",
    SocketAddr: "write an IP address and a port, for example 127.0.0.1:7400 or [::]:7400",
    LogFormat: "write text or json",
    ListenAddress: "write for example tcp://127.0.0.1:10809 or unix:///run/quoin/nbd.sock",
}

impl Value for PathBuf {
    const HINT: &'static str = "write a path";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(Path::new(text).to_owned()) }
    }
}

/// A file's permissions, in octal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileMode(pub(crate) u32);

impl Value for FileMode {
    const HINT: &'static str = "write three octal digits, for example 0660";

    fn read(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(Self(mode)),
            _ => Err("this is no mode".to_owned()),
        }
    }
}

/// Whether clients may, or must, use TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsMode {
    Off,
    Available,
    Required,
}

impl Value for TlsMode {
    const HINT: &'static str = "write off, available or required";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "available" => Ok(Self::Available),
            "required" => Ok(Self::Required),
            _ => Err("this is no mode of TLS".to_owned()),
        }
    }
}

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientCertificatesMode(pub(crate) ClientCertificates);

impl Value for ClientCertificatesMode {
    const HINT: &'static str = "write off, optional or required";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(ClientCertificates::Off)),
            "optional" => Ok(Self(ClientCertificates::Optional)),
            "required" => Ok(Self(ClientCertificates::Required)),
            _ => Err("this is no such mode".to_owned()),
        }
    }
}

/// A log filter, as `tracing` reads it.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter(pub(crate) String);

impl Value for LogFilter {
    const HINT: &'static str = "write for example info, or info,quoin_store=debug";

    fn read(text: &str) -> Result<Self, String> {
        quoin_service::logging::check_filter(text).map_err(|error| error.to_string())?;
        Ok(LogFilter(text.to_owned()))
    }
}

/// The name of a storage node, a gateway or a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name(pub(crate) String);

impl Value for Name {
    const HINT: &'static str = "1 to 63 letters, digits, `-`, `.` or `_`, for example node-1";

    fn read(text: &str) -> Result<Self, String> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if text.is_empty() || text.len() > 63 || !text.bytes().all(is_good) {
            return Err("this is no name".to_owned());
        }
        Ok(Name(text.to_owned()))
    }
}

/// A congestion control of TCP that this kernel offers and lets this process use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CongestionControl(pub(crate) String);

impl Value for CongestionControl {
    const HINT: &'static str = "one of /proc/sys/net/ipv4/tcp_available_congestion_control; without CAP_NET_ADMIN, of tcp_allowed_congestion_control";

    fn read(text: &str) -> Result<Self, String> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
        match set_tcp_congestion(&socket, text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("the kernel refuses it: {error}")),
        }
    }
}

/// `host:port`, where the host may be a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostPort(pub(crate) String);

impl Value for HostPort {
    const HINT: &'static str = "write a host and a port, for example manager-1.example.net:7400";

    fn read(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !(is_v6 || host.chars().all(is_host)) {
            return Err(format!("`{host}` is no host"));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(HostPort(text.to_owned())),
            _ => Err(format!("`{port}` is no port")),
        }
    }
}

/// A list, separated by commas. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: Value> Value for List<T> {
    const HINT: &'static str = T::HINT;

    fn read(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<T> = items
            .map(|item| T::read(item).map_err(|reason| format!("`{item}`: {reason}")))
            .collect::<Result<_, _>>()?;
        if items.is_empty() { Err("the list is empty".to_owned()) } else { Ok(List(items)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_checked() {
        for text in ["a:1", "manager-1.example.net:7400", "10.0.0.1:65535", "[::1]:7400"] {
            assert_eq!(HostPort::read(text), Ok(HostPort(text.to_owned())));
        }
        for text in ["", "a", ":1", "a:0", "a:65536", "http://a:1", "::1:80", "a b:1"] {
            assert!(HostPort::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_forgive_blanks_but_not_bad_items() {
        let good = List::<HostPort>::read("a:1, b:2,").unwrap();
        assert_eq!(good.0, [HostPort("a:1".to_owned()), HostPort("b:2".to_owned())]);
        assert!(List::<HostPort>::read("a:1,b").unwrap_err().contains("`b`"));
        assert!(List::<HostPort>::read(" , ").is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(FileMode::read("0660"), Ok(FileMode(0o660)));
        assert_eq!(FileMode::read("600"), Ok(FileMode(0o600)));
        for text in ["", "0o660", "680", "1777", "-1", "+60", "rw"] {
            assert!(FileMode::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(Name::read("node-1.rack_2").is_ok());
        for text in ["", "a b", "ä", "a/b"] {
            assert!(Name::read(text).is_err(), "{text}");
        }
        assert!(Name::read(&"x".repeat(64)).is_err());
    }
}
