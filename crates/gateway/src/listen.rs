//! Where a gateway serves its clients: an address as it is written in a configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where clients connect: `tcp://IP:PORT` (or just `IP:PORT`), or `unix:///PATH`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// The longest path of a Unix socket, in bytes: what `sockaddr_un` holds, less its final NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// A text that is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListenAddressError {
    /// Neither an IP address with a port, nor a URI of a known kind.
    #[error("`{0}` is no IP:PORT, tcp://IP:PORT or unix:///PATH")]
    Unknown(String),
    /// A Unix socket's path is not absolute.
    #[error("the path of a Unix socket must be absolute: unix:///run/quoin/nbd.sock has three slashes")]
    Relative,
    /// A Unix socket's path is too long for the system.
    #[error("the path of a Unix socket must be at most {UNIX_PATH_BYTES_MAX} bytes")]
    Long,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path {
                _ if !path.starts_with('/') => Err(ListenAddressError::Relative),
                _ if path.len() > UNIX_PATH_BYTES_MAX => Err(ListenAddressError::Long),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let address = text.strip_prefix("tcp://").unwrap_or(text).parse();
        address.map(Self::Tcp).map_err(|_| ListenAddressError::Unknown(text.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_alike() {
        for (text, told) in [
            ("127.0.0.1:10809", "127.0.0.1:10809"),
            ("tcp://[::1]:10809", "[::1]:10809"),
            ("unix:///run/quoin/nbd.sock", "unix:///run/quoin/nbd.sock"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), told);
            assert_eq!(told.parse(), Ok(address));
        }
    }

    #[test]
    fn what_cannot_be_listened_at_is_refused_with_its_reason() {
        let read = |text: &str| text.parse::<ListenAddress>().unwrap_err();
        assert_eq!(read("unix://run/nbd.sock"), ListenAddressError::Relative);
        assert_eq!(read(&format!("unix:///{}", "x".repeat(107))), ListenAddressError::Long);
        assert!(format!("unix:///{}", "x".repeat(106)).parse::<ListenAddress>().is_ok());
        for text in ["", "localhost:10809", "tcp://", "127.0.0.1", "udp://127.0.0.1:1"] {
            assert_eq!(read(text), ListenAddressError::Unknown(text.to_owned()));
        }
    }
}
