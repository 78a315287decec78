//! How one process reaches another: within the machine if it is there, else through the network.

use crate::{LocalSockets, ReadError, SharedMemory, Side, Stream};
use std::io;
use std::rc::Rc;
use tokio::net::TcpStream;

/// What a process knows of the ways to others.
#[derive(Debug)]
pub struct Routes {
    /// Where those of this machine have their sockets; none if there is no such place.
    pub local_sockets: Option<LocalSockets>,
    /// What is shared with them.
    pub memory: Rc<SharedMemory>,
    /// The congestion control of TCP through a network; the kernel's default where nothing is said.
    pub tcp_congestion_control: Option<String>,
}

impl Routes {
    /// Connects to a process, and begins a session with `greet`. What does not succeed within the machine is tried through the network.
    ///
    /// # Errors
    /// Those of the way through the network.
    pub async fn connect<T>(
        &self,
        address: &str,
        greet: impl AsyncFn(Stream) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        if let Some(local) = &self.local_sockets {
            let greeted = match local.connect(address, &self.memory).await {
                Ok(stream) => greet(stream).await,
                Err(error) => Err(error.into()),
            };
            match greeted {
                Ok(greeted) => return Ok(greeted),
                Err(error) => tracing::debug!(address, %error, "not within the machine"),
            }
        }
        let stream = Stream::from(TcpStream::connect(address).await?);
        stream.prepare(self.tcp_congestion_control.as_deref())?;
        greet(stream).await
    }

    /// Sets a connection up that was accepted.
    ///
    /// # Errors
    /// The socket failed, or a peer of this machine shares no memory.
    pub async fn welcome(&self, stream: &mut Stream) -> io::Result<()> {
        stream.prepare(self.tcp_congestion_control.as_deref())?;
        stream.share(&self.memory, Side::Accepted).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Loans;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    async fn is_local(routes: &Routes, address: &str) -> bool {
        let is_unix = routes.connect(address, async |stream| Ok(stream.is_unix())).await;
        is_unix.unwrap()
    }

    #[tokio::test]
    async fn the_way_within_the_machine_is_taken_while_somebody_greets_there() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let routes = Routes {
            local_sockets: Some(LocalSockets::new(dir.path().to_owned())),
            memory: SharedMemory::new(Arc::default(), false, Loans::default()),
            tcp_congestion_control: None,
        };
        assert!(!is_local(&routes, &address).await, "there is none yet");
        let (file, listener) = routes.local_sockets.as_ref().unwrap().listen(&address).unwrap();
        assert!(!is_local(&routes, &address).await, "it hangs");
        let welcome = async {
            loop {
                let mut stream = Stream::from(listener.accept().await.unwrap().0);
                // The one that was given up before is there, too.
                let _ = routes.welcome(&mut stream).await;
            }
        };
        tokio::select! {
            () = welcome => {}
            is_local = is_local(&routes, &address) => assert!(is_local),
        }
        // What the session says decides.
        let refused = routes.connect(&address, async |stream| match stream.is_unix() {
            true => Err(io::Error::other("another process").into()),
            false => Ok(()),
        });
        refused.await.unwrap();
        drop((file, listener));
        assert!(!is_local(&routes, &address).await, "it is gone");
    }
}
