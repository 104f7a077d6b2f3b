//! The client against a scripted server: what a good one does, and what a hostile one tries.

mod handshake;
mod hostile;
mod ours;
mod transmission;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::export::BlockSize;
use crate::wire::{self, Info, Request, cmd, export_flags, opt, rep};

const ALL_FLAGS: u16 = export_flags::HAS_FLAGS
    | export_flags::SEND_FLUSH
    | export_flags::SEND_FUA
    | export_flags::SEND_TRIM
    | export_flags::SEND_WRITE_ZEROES
    | export_flags::SEND_FAST_ZERO
    | export_flags::CAN_MULTI_CONN;

/// What the scripted server offers.
#[derive(Clone)]
struct Offer {
    size: u64,
    flags: u16,
    extended: bool,
    structured: bool,
    go: bool,
    contexts: Vec<&'static str>,
    block_size: Option<BlockSize>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            size: 1 << 20,
            flags: ALL_FLAGS,
            extended: false,
            structured: false,
            go: true,
            contexts: vec![wire::BASE_ALLOCATION],
            block_size: None,
        }
    }
}

impl Offer {
    fn simple() -> Self {
        Self::default()
    }

    fn structured() -> Self {
        Self {
            structured: true,
            ..Self::default()
        }
    }

    fn extended() -> Self {
        Self {
            structured: true,
            extended: true,
            ..Self::default()
        }
    }
}

struct Server {
    io: DuplexStream,
    extended: bool,
}

impl Server {
    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.io.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn greet(&mut self) {
        self.send(&wire::greeting()).await;
        assert_eq!(self.receive(4).await, [0, 0, 0, 3]);
    }

    async fn option(&mut self) -> (u32, Vec<u8>) {
        let header = self.receive(wire::OPTION_HEADER_LEN).await;
        let header = wire::OptionHeader::decode(&header.try_into().unwrap()).unwrap();
        (header.option, self.receive(header.len as usize).await)
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let mut out = Vec::new();
        wire::option_reply(&mut out, option, kind, data);
        self.send(&out).await;
    }

    /// The handshake of a good server.
    async fn admit(&mut self, offer: &Offer) {
        self.greet().await;
        loop {
            let (option, _) = self.option().await;
            match option {
                opt::EXTENDED_HEADERS if offer.extended => {
                    self.extended = true;
                    self.reply(option, rep::ACK, &[]).await;
                }
                opt::STRUCTURED_REPLY if offer.structured => {
                    self.reply(option, rep::ACK, &[]).await;
                }
                opt::SET_META_CONTEXT => {
                    for (id, name) in (7..).zip(&offer.contexts) {
                        let entry = wire::meta_context_entry(id, name);
                        self.reply(option, rep::META_CONTEXT, &entry).await;
                    }
                    self.reply(option, rep::ACK, &[]).await;
                }
                opt::GO if offer.go => {
                    let (size, flags) = (offer.size, offer.flags);
                    let export = Info::Export { size, flags }.encode();
                    self.reply(option, rep::INFO, &export).await;
                    if let Some(sizes) = offer.block_size {
                        let sizes = Info::BlockSize(sizes).encode();
                        self.reply(option, rep::INFO, &sizes).await;
                    }
                    self.reply(option, rep::ACK, &[]).await;
                    return;
                }
                opt::EXPORT_NAME => {
                    let mut out = Vec::new();
                    wire::export_name_reply(&mut out, offer.size, offer.flags, true);
                    self.send(&out).await;
                    return;
                }
                _ => self.reply(option, rep::ERR_UNSUP, b"no").await,
            }
        }
    }

    /// The next request, with its payload.
    async fn request(&mut self) -> (Request, Vec<u8>) {
        let header = self.receive(Request::header_len(self.extended)).await;
        let request = Request::decode(&header, self.extended).unwrap();
        let len = if request.command == cmd::WRITE {
            usize::try_from(request.len).unwrap()
        } else {
            0
        };
        (request, self.receive(len).await)
    }

    async fn simple(&mut self, cookie: u64, error: u32, data: &[u8]) {
        let mut out = Vec::new();
        wire::SimpleReply { error, cookie }.encode(&mut out);
        out.extend_from_slice(data);
        self.send(&out).await;
    }

    async fn chunk(&mut self, to: &Request, kind: u16, done: bool, payload: &[u8]) {
        let out = chunk(to, kind, done, payload, self.extended);
        self.send(&out).await;
    }
}

fn chunk(to: &Request, kind: u16, done: bool, payload: &[u8], extended: bool) -> Vec<u8> {
    let mut out = Vec::new();
    wire::ChunkHeader {
        flags: u16::from(done),
        kind,
        cookie: to.cookie,
        offset: if extended { to.offset } else { 0 },
        len: payload.len() as u64,
    }
    .encode(&mut out, extended);
    out.extend_from_slice(payload);
    out
}

fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    [&at.to_be_bytes(), bytes].concat()
}

fn pair() -> (DuplexStream, Server) {
    let (near, io) = duplex(1 << 16);
    let extended = false;
    (near, Server { io, extended })
}

fn options() -> ConnectOptions {
    ConnectOptions {
        connect_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(5),
        ..ConnectOptions::with_allocation()
    }
}

/// A client that is connected to a server of this offer.
async fn connected_with(offer: &Offer, options: ConnectOptions) -> (Client, Server) {
    let (near, mut server) = pair();
    let (client, ()) = tokio::join!(Client::over(near, "disk", &options), server.admit(offer));
    (client.unwrap(), server)
}

async fn connected(offer: &Offer) -> (Client, Server) {
    connected_with(offer, options()).await
}
