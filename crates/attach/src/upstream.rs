//! A connection to the gateway with an open export.

use crate::Error;
use crate::origin::Origin;
use bytes::BytesMut;
use quoin_nbd::ConnectionName;
use quoin_nbd::client::{ClientHandshake, ClientStep, OpenError, OpenedExport};
use quoin_transport::Queue;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the gateway may take to attach the volume: longer than it itself allows the cluster managers.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    /// What has come after the handshake.
    pub(crate) input: BytesMut,
    /// What is to be sent and has not been yet, the first perhaps in part.
    pub(crate) unsent: Queue,
    pub(crate) export: OpenedExport,
}

impl Upstream {
    /// Connects and opens the volume.
    pub(crate) async fn open(address: &str, volume: &str, name: ConnectionName) -> Result<Self, Error> {
        let no_gateway = |error| Error::NoGateway { address: address.to_owned(), error };
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let stream = connected.map_err(|late| no_gateway(late.into()))?.map_err(no_gateway)?;
        stream.set_nodelay(true).map_err(no_gateway)?;
        let opened = tokio::time::timeout(OPEN_MAX, Self::handshake(stream, volume, name)).await;
        opened.map_err(|late| no_gateway(late.into()))?.map_err(|failure| match failure {
            Failure::Io(error) => no_gateway(error),
            Failure::Refused(error) => {
                Error::Open { address: address.to_owned(), volume: volume.to_owned(), error }
            }
        })
    }

    /// Connects and opens the volume for a device that began with `origin`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`]: its requests may go on nowhere any more.
    pub(crate) async fn open_again(
        address: &str,
        volume: &str,
        name: ConnectionName,
        origin: Option<Origin>,
    ) -> Result<Self, Error> {
        match (Self::open(address, volume, name).await, origin) {
            // Whoever has it now has it for clients of his own, if only for a while.
            (Err(Error::Open { error: OpenError::Elsewhere { message, attachment }, .. }), Some(origin))
                if !origin.is_continued_by(&attachment) =>
            {
                tracing::warn!(volume, "{message}");
                Err(Error::Interrupted(volume.to_owned()))
            }
            (opened, origin) => opened?.continues(origin, address, volume),
        }
    }

    /// Checks that the requests of a device that began with `origin` may go on here. `address` and `volume` are for the error.
    fn continues(self, origin: Option<Origin>, address: &str, volume: &str) -> Result<Self, Error> {
        let Some(origin) = origin else { return Ok(self) };
        match &self.export.attachment {
            Some(now) if origin.is_continued_by(now) => Ok(self),
            Some(_) => Err(Error::Interrupted(volume.to_owned())),
            None => Err(Error::Untold { address: address.to_owned(), volume: volume.to_owned() }),
        }
    }

    async fn handshake(mut stream: TcpStream, volume: &str, name: ConnectionName) -> Result<Self, Failure> {
        let mut handshake = ClientHandshake::new(volume).named(name);
        let mut input = BytesMut::new();
        loop {
            match handshake.advance(&mut input)? {
                ClientStep::NeedMore { missing } => {
                    input.reserve(missing);
                    if stream.read_buf(&mut input).await? == 0 {
                        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                ClientStep::Send(bytes) => stream.write_all(&bytes).await?,
                ClientStep::Opened(export) => {
                    return Ok(Self { stream, input, unsent: Queue::default(), export });
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] OpenError),
}
