//! A whole connection over an in-memory pipe: helpers, and one file per kind of case.

mod data;
mod limits;
mod probes;
mod refused;
#[cfg(feature = "tls")]
mod tls;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;
use crate::buffer::Purpose;
use crate::error::NbdError;
use crate::export::{Done, ExportInfo, Listed, Refused, StatusExtent, ZeroFlags};
use crate::wire::{
    ChunkHeader, OptionReplyHeader, Request, SimpleReply, go_data, opt, option, rep,
};

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A pool of very few small buffers.
#[derive(Debug, Clone)]
pub(super) struct FewPool(Arc<Semaphore>, Arc<Semaphore>);

impl FewPool {
    pub(super) fn new(each: usize) -> Self {
        Self(
            Arc::new(Semaphore::new(each)),
            Arc::new(Semaphore::new(each)),
        )
    }
}

impl BufferPool for FewPool {
    type Buf = Lent;

    fn slot_len(&self) -> usize {
        64 << 10
    }

    async fn take(&self, len: usize, purpose: Purpose) -> Lent {
        assert!((1..=64 << 10).contains(&len));
        let reserve = if purpose == Purpose::Receive {
            &self.0
        } else {
            &self.1
        };
        let _permit = Arc::clone(reserve).acquire_owned().await.unwrap();
        Lent {
            bytes: vec![0; len],
            _permit,
        }
    }
}

/// A disk that notes what it is asked, can fail and can be slow.
#[derive(Debug)]
pub(super) struct Spy {
    pub(super) info: ExportInfo,
    pub(super) bytes: RefCell<Vec<u8>>,
    pub(super) log: RefCell<Vec<String>>,
    /// Operations that touch this byte fail.
    pub(super) bad: Cell<Option<u64>>,
    /// Writes wait for one of these.
    pub(super) gate: Semaphore,
    /// Extents are this long, alternating data and zero.
    pub(super) extent: u64,
}

impl Spy {
    pub(super) fn new(info: ExportInfo) -> Rc<Self> {
        let size = usize::try_from(info.size).unwrap();
        Rc::new(Self {
            bytes: RefCell::new(
                (0..size)
                    .map(|at| u8::try_from(at / 512 % 251).unwrap())
                    .collect(),
            ),
            log: RefCell::default(),
            bad: Cell::new(None),
            gate: Semaphore::new(1 << 20),
            extent: 1 << 40,
            info,
        })
    }

    fn outcome(&self, at: u64, len: u64) -> Result<(), NbdError> {
        match self.bad.get() {
            Some(bad) if (at..at + len).contains(&bad) => Err(NbdError::Io),
            _ => Ok(()),
        }
    }

    fn note(&self, what: String) {
        self.log.borrow_mut().push(what);
    }
}

impl Export for Spy {
    type Buf = Lent;

    fn info(&self) -> &ExportInfo {
        &self.info
    }

    async fn read(&self, at: u64, mut buf: Lent) -> Done<Lent> {
        let (from, len) = (usize::try_from(at).unwrap(), buf.bytes.len());
        buf.bytes
            .copy_from_slice(&self.bytes.borrow()[from..from + len]);
        Done {
            result: self.outcome(at, len as u64),
            buf,
        }
    }

    async fn write(&self, at: u64, buf: Lent) -> Done<Lent> {
        self.gate.acquire().await.unwrap().forget();
        self.note(format!("write {at} {}", buf.bytes.len()));
        let from = usize::try_from(at).unwrap();
        self.bytes.borrow_mut()[from..from + buf.bytes.len()].copy_from_slice(&buf.bytes);
        Done {
            result: self.outcome(at, buf.bytes.len() as u64),
            buf,
        }
    }

    async fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<(), NbdError> {
        self.note(format!("zero {at} {len} {} {}", flags.no_hole, flags.fast));
        self.outcome(at, len)
    }

    async fn trim(&self, at: u64, len: u64) -> Result<(), NbdError> {
        self.note(format!("trim {at} {len}"));
        self.outcome(at, len)
    }

    async fn flush(&self) -> Result<(), NbdError> {
        self.note("flush".into());
        Ok(())
    }

    fn refused(&self, at: u64, len: u64) {
        self.note(format!("refused {at} {len}"));
    }

    async fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        self.outcome(at, len)?;
        let mut extents = Vec::new();
        let (mut at, end) = (at, at + len);
        while at < end && extents.len() < max_extents {
            let stop = ((at / self.extent + 1) * self.extent).min(end);
            let odd = at / self.extent % 2 == 1;
            let flags = if context > 0 {
                u32::from(odd)
            } else {
                3 * u32::from(odd)
            };
            extents.push(StatusExtent {
                len: stop - at,
                flags,
            });
            at = stop;
        }
        Ok(extents)
    }
}

/// `good` is given, `full` is refused, anything else is unknown.
pub(super) struct Shelf(pub(super) Rc<Spy>);

impl Exports for Shelf {
    type Export = Spy;

    async fn info(&self, name: &str, peer: &Peer) -> Result<ExportInfo, Refused> {
        self.open(name, peer)
            .await
            .map(|export| export.info.clone())
    }

    async fn open(&self, name: &str, peer: &Peer) -> Result<Rc<Spy>, Refused> {
        match name {
            "good" => Ok(Rc::clone(&self.0)),
            "names" => Err(Refused::Policy(peer.certificate_names.join(",").into())),
            "full" => Err(Refused::Policy(
                "full: all of its 1 connections are in use".into(),
            )),
            _ => Err(Refused::Unknown),
        }
    }

    fn list(&self, _peer: &Peer) -> Option<Vec<Listed>> {
        Some(vec![Listed {
            name: "good".into(),
            description: "a disk".into(),
        }])
    }
}

/// The other end of the wire, which says what it likes.
pub(super) struct Raw<S = DuplexStream>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(super) async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub(super) async fn hello(&mut self) {
        assert_eq!(self.take(18).await, crate::wire::greeting());
        self.send(&[0, 0, 0, 3]).await;
    }

    /// Sends an option; the replies up to the one that ends it.
    pub(super) async fn option(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        option(&mut bytes, number, data);
        self.send(&bytes).await;
        self.answers(number).await
    }

    pub(super) async fn answers(&mut self, number: u32) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let head = self.take(20).await;
            let head = OptionReplyHeader::decode(head[..].try_into().unwrap()).unwrap();
            assert_eq!(head.option, number);
            found.push((head.kind, self.take(head.len as usize).await));
            if head.kind == rep::ACK || head.kind & rep::ERROR_BIT != 0 {
                return found;
            }
        }
    }

    /// The type of the last reply.
    pub(super) async fn ends(&mut self, number: u32, data: &[u8]) -> u32 {
        self.option(number, data).await.last().unwrap().0
    }

    pub(super) async fn go(&mut self, modes: &[u32]) {
        self.hello().await;
        for mode in modes {
            assert_eq!(self.ends(*mode, b"").await, rep::ACK);
        }
        assert_eq!(self.ends(opt::GO, &go_data("good", &[])).await, rep::ACK);
    }

    pub(super) async fn request(&mut self, command: u16, flags: u16, at: u64, len: u64) {
        self.send(&request(command, flags, at, len, false)).await;
    }

    pub(super) async fn simple(&mut self) -> u32 {
        let bytes = self.take(16).await;
        SimpleReply::decode(&bytes).unwrap().error
    }

    pub(super) async fn chunk(&mut self, extended: bool) -> (ChunkHeader, Vec<u8>) {
        let bytes = self.take(ChunkHeader::header_len(extended)).await;
        let header = ChunkHeader::decode(&bytes, extended).unwrap();
        let payload = self.take(usize::try_from(header.len).unwrap()).await;
        (header, payload)
    }

    pub(super) async fn eof(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    }
}

/// A request whose cookie is its offset.
pub(super) fn request(command: u16, flags: u16, at: u64, len: u64, extended: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request {
        flags,
        command,
        cookie: at,
        offset: at,
        len,
    }
    .encode(&mut bytes, extended);
    bytes
}

/// Runs a server and a client until both are done.
pub(super) async fn against<T>(
    spy: &Rc<Spy>,
    pool: FewPool,
    cfg: ServeConfig,
    client: impl AsyncFnOnce(Raw) -> T,
) -> (Result<Summary, ServeError>, T) {
    let (ours, theirs) = duplex(256 << 10);
    let shelf = Shelf(Rc::clone(spy));
    tokio::join!(serve(ours, pool, &shelf, &cfg), client(Raw(theirs)))
}

/// The same with defaults.
pub(super) async fn probe(client: impl AsyncFnOnce(Raw)) -> Result<Summary, ServeError> {
    let spy = Spy::new(ExportInfo::writable(1 << 20));
    against(&spy, FewPool::new(4), ServeConfig::default(), client)
        .await
        .0
}
