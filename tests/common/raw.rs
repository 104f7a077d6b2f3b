//! A bare NBD client that says on the wire what no library would: unknown flags, half a payload.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::daemon::PATIENCE;

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const ERROR_BIT: u32 = 1 << 31;

/// WRITE.
pub const WRITE: u16 = 1;
/// WRITE_ZEROES.
pub const WRITE_ZEROES: u16 = 6;

/// A connection to one export, with simple replies.
#[derive(Debug)]
pub struct RawClient(TcpStream);

impl RawClient {
    /// Opens an export over TCP; where the server refuses, its own words.
    #[track_caller]
    pub fn open(address: &str, export: &str) -> Result<Self, String> {
        let mut client = Self::greeted(address).expect("a greeting");
        client.0.write_all(&3_u32.to_be_bytes()).unwrap();
        let mut go = b"IHAVEOPT".to_vec();
        go.extend_from_slice(&OPT_GO.to_be_bytes());
        go.extend_from_slice(&(export.len() as u32 + 6).to_be_bytes());
        go.extend_from_slice(&(export.len() as u32).to_be_bytes());
        go.extend_from_slice(export.as_bytes());
        go.extend_from_slice(&[0, 0]);
        client.0.write_all(&go).unwrap();
        loop {
            let head = client.take(20);
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let (kind, text) = (number(12), client.take(number(16) as usize));
            if kind == REP_ACK {
                return Ok(client);
            }
            if kind & ERROR_BIT != 0 {
                return Err(String::from_utf8(text).unwrap());
            }
        }
    }

    /// Connects and takes the greeting, no more; `None` where the server closes without one.
    #[track_caller]
    pub fn greeted(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self(stream);
        client.0.read_exact(&mut [0; 18]).ok().map(|()| client)
    }

    /// Sends a request and `payload` behind it, which may be shorter than the request says.
    #[track_caller]
    pub fn send(&mut self, command: u16, flags: u16, at: u64, len: u32, payload: &[u8]) {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&at.to_be_bytes());
        bytes.extend_from_slice(&at.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// The error of the next reply; 0 is success.
    #[track_caller]
    pub fn error(&mut self) -> u32 {
        let head = self.take(16);
        u32::from_be_bytes(head[4..8].try_into().unwrap())
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}
