//! A request body for a parser that blocks: passed on as it arrives, a few pieces at a time.

use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};
use tokio::sync::mpsc;

use crate::error::{Answer, Refusal};
use crate::types::Code;

/// Pieces under way; each is at most what one read of the connection gave.
const PIECES: usize = 4;

/// What goes from the connection to the parser. A channel that closes is no end: the body, or
/// whoever waited for it, is gone.
enum Piece {
    Bytes(Bytes),
    End,
}

/// The side that receives the body.
pub(super) struct Feed {
    pieces: mpsc::Sender<Piece>,
}

/// The side that parses: blocks until something comes. A body that was cut off is an error here,
/// never an end. Only for a thread that may block.
pub(super) struct Arriving {
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
}

/// The two sides. Both have to be driven at once.
pub(super) fn arriving() -> (Feed, Arriving) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let parsed = Arriving {
        pieces,
        rest: Bytes::new(),
        ended: false,
    };
    (Feed { pieces: sender }, parsed)
}

impl Feed {
    /// Passes the body on to its end, or to the piece that goes past `most` bytes, which is for
    /// the parser to refuse. What nobody parses any more is taken too: a client that cannot go on
    /// sending would not see why it was refused.
    pub(super) async fn pass_on(self, mut body: Body, most: usize) -> Answer<()> {
        let mut taken = 0_usize;
        let mut parsed = true;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|e| {
                Refusal::new(Code::BadRequest, format!("the body was cut off: {e}"))
            })?;
            // Trailers say nothing to us.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            taken = taken.saturating_add(bytes.len());
            parsed = parsed && self.pieces.send(Piece::Bytes(bytes)).await.is_ok();
            if taken > most {
                return Ok(());
            }
        }
        // Nobody there: it was refused before.
        let _ = self.pieces.send(Piece::End).await;
        Ok(())
    }
}

impl Read for Arriving {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.rest = bytes,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the request was cut off",
                    ));
                }
            }
        }
        let n = self.rest.as_ref().read(buf)?;
        drop(self.rest.split_to(n));
        Ok(n)
    }
}
