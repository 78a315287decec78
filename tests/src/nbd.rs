//! A small NBD client for what the standard ones do not show: single replies, their order and their timing.
//!
//! Fixed newstyle with `NBD_OPT_GO`; simple or structured replies; one connection. Follows proto.md of the NBD project.

use socket2::{SockFilter, SockRef};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
/// How long to wait for anything from the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags of [`Nbd::flags`].
pub const CAN_MULTI_CONN: u16 = 1 << 8;

/// Why a request or a connection failed.
#[derive(Debug)]
pub enum NbdError {
    /// The connection broke, or the server did not answer in time.
    Io(io::Error),
    /// The server refused the export: its reply type and words.
    Refused(u32, String),
    /// The server answered the request with this error number.
    Answer(u32),
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdError::Io(error) => write!(f, "connection: {error}"),
            NbdError::Refused(kind, words) => write!(f, "refused ({kind:#x}): {words}"),
            NbdError::Answer(errno) => write!(f, "answered with error {errno}"),
        }
    }
}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> Self {
        NbdError::Io(error)
    }
}

fn broken(what: &str) -> NbdError {
    NbdError::Io(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// A request: what is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read so many bytes.
    Read(u32),
    /// Write the data given along, durably if so wished.
    Write {
        /// Answered only once it is durable.
        fua: bool,
    },
    /// Make all writes answered before durable.
    Flush,
    /// Discard so many bytes.
    Trim(u32),
    /// Zero so many bytes.
    Zero(u32),
}

/// A connection to an export.
pub struct Nbd {
    stream: TcpStream,
    /// The export's size, in bytes.
    pub size: u64,
    /// The export's transmission flags.
    pub flags: u16,
    /// Whether structured replies were agreed upon.
    pub structured: bool,
    next_cookie: u64,
    /// Offset and content so far of each read under way.
    reads: HashMap<u64, (u64, Vec<u8>)>,
}

impl Nbd {
    /// Opens an export, with structured replies if the server has them.
    pub fn open(address: SocketAddr, export: &str) -> Result<Self, NbdError> {
        Self::open_as(address, export, true)
    }

    /// Opens an export, with structured replies or without.
    pub fn open_as(address: SocketAddr, export: &str, structured: bool) -> Result<Self, NbdError> {
        let mut nbd = Self::connect(address)?;
        if structured {
            nbd.option(8, &[])?;
            nbd.structured = nbd.option_reply()?.0 == 1;
        }
        nbd.ask_for(7, export)?;
        Ok(nbd)
    }

    /// Opens an export on a connection with a name: `NBD_OPT` 0x51550001, Quoin's own.
    pub fn open_named(address: SocketAddr, export: &str, name: &[u8; 28]) -> Result<Self, NbdError> {
        let mut nbd = Self::connect(address)?;
        nbd.option(0x5155_0001, name)?;
        match nbd.option_reply()? {
            (1, _) => nbd.ask_for(7, export).map(|()| nbd),
            (kind, words) => Err(NbdError::Refused(kind, String::from_utf8_lossy(&words).into_owned())),
        }
    }

    /// Asks how large an export is, in bytes, without opening it (`NBD_OPT_INFO`).
    pub fn size_of(address: SocketAddr, export: &str) -> Result<u64, NbdError> {
        let mut nbd = Self::connect(address)?;
        nbd.ask_for(6, export)?;
        Ok(nbd.size)
    }

    fn connect(address: SocketAddr) -> Result<Self, NbdError> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut nbd =
            Self { stream, size: 0, flags: 0, structured: false, next_cookie: 1, reads: HashMap::new() };
        nbd.bytes::<18>()?;
        nbd.stream.write_all(&3u32.to_be_bytes())?;
        Ok(nbd)
    }

    /// `NBD_OPT_INFO` or `NBD_OPT_GO`.
    fn ask_for(&mut self, option: u32, export: &str) -> Result<(), NbdError> {
        let mut data = u32::try_from(export.len()).expect("a short name").to_be_bytes().to_vec();
        data.extend_from_slice(export.as_bytes());
        data.extend_from_slice(&[0, 0]);
        self.option(option, &data)?;
        loop {
            match self.option_reply()? {
                (1, _) => return Ok(()),
                (3, info) if info.len() == 12 && info[..2] == [0, 0] => {
                    self.size = u64::from_be_bytes(info[2..10].try_into().expect("eight bytes"));
                    self.flags = u16::from_be_bytes([info[10], info[11]]);
                }
                (3, _) => {}
                (kind, words) => {
                    return Err(NbdError::Refused(kind, String::from_utf8_lossy(&words).into_owned()));
                }
            }
        }
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let length = u32::try_from(data.len()).expect("a short option");
        let head =
            [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat();
        Ok(self.stream.write_all(&head)?)
    }

    fn option_reply(&mut self) -> Result<(u32, Vec<u8>), NbdError> {
        if self.u64()? != OPTION_REPLY_MAGIC {
            return Err(broken("no option reply"));
        }
        let _option = self.u32()?;
        let kind = self.u32()?;
        let length = self.u32()?;
        Ok((kind, self.vec(length)?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], NbdError> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, NbdError> {
        Ok(u16::from_be_bytes(self.bytes()?))
    }

    fn u32(&mut self) -> Result<u32, NbdError> {
        Ok(u32::from_be_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, NbdError> {
        Ok(u64::from_be_bytes(self.bytes()?))
    }

    fn vec(&mut self, length: u32) -> Result<Vec<u8>, NbdError> {
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends a request and gives its cookie; [`Nbd::receive`] gives the answers as they come.
    pub fn send(&mut self, command: Command, offset: u64, data: &[u8]) -> Result<u64, NbdError> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (kind, fua, length): (u16, bool, u32) = match command {
            Command::Read(length) => (0, false, length),
            Command::Write { fua } => (1, fua, u32::try_from(data.len()).expect("a short write")),
            Command::Flush => (3, false, 0),
            Command::Trim(length) => (4, false, length),
            Command::Zero(length) => (6, false, length),
        };
        if let Command::Read(length) = command {
            self.reads.insert(cookie, (offset, vec![0; length as usize]));
        }
        let head = [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &u16::from(fua).to_be_bytes(),
            &kind.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ];
        self.stream.write_all(&head.concat())?;
        Ok(cookie)
    }

    /// Waits for the next answer to any request: its cookie, and a read's data or the error.
    pub fn receive(&mut self) -> Result<(u64, Result<Vec<u8>, NbdError>), NbdError> {
        if self.structured { self.receive_structured() } else { self.receive_simple() }
    }

    fn receive_simple(&mut self) -> Result<(u64, Result<Vec<u8>, NbdError>), NbdError> {
        if self.u32()? != SIMPLE_MAGIC {
            return Err(broken("no simple reply"));
        }
        let errno = self.u32()?;
        let cookie = self.u64()?;
        let (_, mut data) = self.reads.remove(&cookie).unwrap_or_default();
        if errno != 0 {
            return Ok((cookie, Err(NbdError::Answer(errno))));
        }
        self.stream.read_exact(&mut data)?;
        Ok((cookie, Ok(data)))
    }

    fn receive_structured(&mut self) -> Result<(u64, Result<Vec<u8>, NbdError>), NbdError> {
        let mut failure = None;
        loop {
            match self.u32()? {
                STRUCTURED_MAGIC => {}
                // Only reads must be answered with structured replies.
                SIMPLE_MAGIC => {
                    let errno = self.u32()?;
                    let answer = if errno == 0 { Ok(Vec::new()) } else { Err(NbdError::Answer(errno)) };
                    return Ok((self.u64()?, answer));
                }
                _ => return Err(broken("no reply")),
            }
            let (flags, kind, cookie, length) = (self.u16()?, self.u16()?, self.u64()?, self.u32()?);
            let payload = self.vec(length)?;
            match kind {
                0 => {}
                1 => {
                    let at = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                    let (offset, content) =
                        self.reads.get_mut(&cookie).ok_or_else(|| broken("no such read"))?;
                    let from = usize::try_from(at - *offset).expect("within the read");
                    content[from..from + payload.len() - 8].copy_from_slice(&payload[8..]);
                }
                // A hole: the content is zero already.
                2 => {}
                _ => failure = Some(u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))),
            }
            if flags & 1 != 0 {
                let (_, content) = self.reads.remove(&cookie).unwrap_or_default();
                return Ok((cookie, failure.map_or(Ok(content), |errno| Err(NbdError::Answer(errno)))));
            }
        }
    }

    /// Whether an answer, or the end of the connection, comes within this time.
    pub fn answers_within(&self, time: Duration) -> io::Result<bool> {
        self.stream.set_read_timeout(Some(time))?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match peeked {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// As if this machine were gone without a word: nothing that comes for this connection is taken or acknowledged any more.
    pub fn vanish(&self) -> io::Result<()> {
        // A filter of one instruction, `BPF_RET | BPF_K`, that keeps nothing of any packet.
        SockRef::from(&self.stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])
    }

    fn call(&mut self, command: Command, offset: u64, data: &[u8]) -> Result<Vec<u8>, NbdError> {
        let cookie = self.send(command, offset, data)?;
        match self.receive()? {
            (answered, answer) if answered == cookie => answer,
            _ => Err(broken("the answer to another request")),
        }
    }

    /// Reads.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, NbdError> {
        self.call(Command::Read(length), offset, &[])
    }

    /// Writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.call(Command::Write { fua: false }, offset, data).map(drop)
    }

    /// Writes durably.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.call(Command::Write { fua: true }, offset, data).map(drop)
    }

    /// Makes all writes answered before durable.
    pub fn flush(&mut self) -> Result<(), NbdError> {
        self.call(Command::Flush, 0, &[]).map(drop)
    }

    /// Discards.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.call(Command::Trim(length), offset, &[]).map(drop)
    }

    /// Zeroes.
    pub fn zero(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.call(Command::Zero(length), offset, &[]).map(drop)
    }
}
