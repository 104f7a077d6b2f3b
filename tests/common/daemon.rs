//! A real `sendensed` in a directory of its own, spoken to over REST, stopped when dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{Ran, ours, run_command};

/// How long anything that should just work may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// The HTTP address, `http://127.0.0.1:PORT`.
    pub url: String,
    /// The NBD TCP address, `127.0.0.1:PORT`.
    pub nbd: String,
    /// The data directory.
    pub dir: PathBuf,
    agent: ureq::Agent,
}

/// What a request answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, `null` where it was empty.
    pub body: Value,
}

impl Answer {
    /// Fails the test where the status is another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

impl Daemon {
    /// Starts a daemon on free ports in `dir` and waits until it is ready.
    #[track_caller]
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// Starts a daemon with a configuration file of this content.
    #[track_caller]
    pub fn start_with_config(dir: &Path, config: &str) -> Self {
        let path = dir.with_extension("toml");
        fs::write(&path, config).unwrap();
        Self::start_with(dir, &["--config", path.to_str().unwrap()])
    }

    /// Starts a daemon with more arguments.
    #[track_caller]
    pub fn start_with(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(ours("sendensed"));
        command
            .args(["--data-dir", dir.to_str().unwrap()])
            .args(["--listen", "127.0.0.1:0", "--nbd-listen", "127.0.0.1:0"])
            .args(args)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.with_extension("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let (url, nbd) = Self::addresses(&mut child, dir);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Self {
            child,
            url,
            nbd,
            dir: dir.to_owned(),
            agent,
        }
    }

    /// Reads the lines that the daemon prints when it is ready.
    fn addresses(child: &mut Child, dir: &Path) -> (String, String) {
        let stdout = child.stdout.take().unwrap();
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tx.send(line);
            }
        });
        let (mut url, mut nbd) = (None, None);
        let end = Instant::now() + PATIENCE;
        while url.is_none() || nbd.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = rx.recv_timeout(left) else {
                let log = fs::read_to_string(dir.with_extension("log")).unwrap_or_default();
                panic!("the daemon did not become ready: {log}");
            };
            for word in line.split_whitespace() {
                if word.starts_with("http://") {
                    url = Some(word.trim_end_matches('/').to_owned());
                } else if let Some(rest) = word.strip_prefix("nbd://") {
                    nbd = Some(rest.trim_end_matches('/').to_owned());
                }
            }
        }
        (url.unwrap(), nbd.unwrap())
    }

    /// The first admin token.
    pub fn token(&self) -> String {
        fs::read_to_string(self.dir.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// What the daemon wrote to its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// The directory of the default repository.
    pub fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// Sends a request to `/api/v1{path}`.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let token = format!("Bearer {}", self.token());
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.url))
            .header("authorization", token);
        let answer = match body {
            Some(v) => self.agent.run(
                request
                    .header("content-type", "application/json")
                    .body(v.to_string())
                    .unwrap(),
            ),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer.unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()));
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().unwrap();
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        Answer { status, body }
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None)
    }

    /// POST.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None)
    }

    /// Starts a backup; the answer's body.
    #[track_caller]
    pub fn start_backup(&self, body: &Value) -> Value {
        self.post("/backup/start", body).expect(202)
    }

    /// Completes all disks and waits for the seal; the sealed point.
    #[track_caller]
    pub fn complete(&self, id: &str, disks: &Value) -> Value {
        let body = self
            .post(
                &format!("/backup/{id}/complete?wait=100"),
                &json!({ "disks": disks }),
            )
            .expect(200);
        assert_eq!(body["status"], "completed", "{body}");
        body
    }

    /// The image files of a sealed point, in the order of its disks (an admin sees paths).
    #[track_caller]
    pub fn images(&self, id: &str) -> Vec<PathBuf> {
        let shown = self.get(&format!("/backup/{id}")).expect(200);
        let disks = shown["disks"].as_array().unwrap();
        disks
            .iter()
            .map(|d| PathBuf::from(d["path"].as_str().unwrap()))
            .collect()
    }

    /// Waits until a job has ended; its last view.
    #[track_caller]
    pub fn wait_job(&self, id: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let job = self.get(&format!("/jobs/{id}")).expect(200);
            let status = job["status"].as_str().unwrap().to_owned();
            if ["completed", "failed", "cancelled"].contains(&status.as_str()) {
                return job;
            }
            assert!(Instant::now() < end, "the job does not end: {job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restores a disk of a point with the command line to a new raw file.
    #[track_caller]
    pub fn restore(&self, id: &str, disk: u32, to: &Path) {
        let disk = disk.to_string();
        self.ctl(&[
            "backup",
            "restore",
            "--backup-id",
            id,
            "--disk",
            &disk,
            "--to",
            to.to_str().unwrap(),
        ])
        .ok();
    }

    /// Runs `sendense-ctl` against this daemon.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Ran {
        run_command(
            Command::new(ours("sendense-ctl"))
                .args(args)
                .env("SENDENSE_URL", &self.url)
                .env("SENDENSE_TOKEN_FILE", self.dir.join("admin.token")),
        )
    }

    /// Sends a signal by name, for example `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        run_command(Command::new("kill").args([&format!("-{name}"), &pid])).ok();
    }

    /// Kills the daemon as a power cut would, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the daemon to stop and waits until it has.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal("TERM");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.log());
                return;
            }
            assert!(
                Instant::now() < end,
                "the daemon does not stop: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
