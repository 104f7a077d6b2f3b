//! A daemon that is none: it answers what it was told to and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// One request: `POST /backup/start?x=y` without the base, the token, the body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// Says status and body; the last one given for a line's beginning is the answer from then on.
type Answers = Vec<(&'static str, u16, Value)>;

/// A listening fake. It goes with the test's process.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    pub(crate) fn new(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &answers, &kept);
            }
        });
        Self { url, asked }
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request that begins so; there is one.
    pub(crate) fn one(&self, line: &str) -> Asked {
        let asked = self.asked();
        let found = asked.iter().find(|a| a.line.starts_with(line));
        found
            .unwrap_or_else(|| panic!("no {line} in {asked:?}"))
            .clone()
    }
}

fn answer(mut stream: TcpStream, answers: &Answers, kept: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let (mut length, mut chunked, mut authorization) = (0, false, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "transfer-encoding" => chunked = true,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        reader.read_exact(&mut chunk).unwrap();
        chunk.truncate(chunk.len() - 2);
        chunked = !chunk.is_empty();
        body.extend(chunk);
    }
    let mut words = first.split_whitespace();
    let line = format!(
        "{} {}",
        words.next().unwrap(),
        words.next().unwrap().trim_start_matches("/api/v1")
    );
    let found = answers.iter().rev().find(|(l, _, _)| line.starts_with(l));
    kept.lock().unwrap().push(Asked {
        line,
        authorization,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    });
    let (status, body) = found.map_or((404, Value::Null), |(_, s, b)| (*s, b.clone()));
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The client may have gone.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
