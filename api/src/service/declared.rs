//! What files say and a running daemon may be told again, by SIGHUP or `POST /exports/reload`:
//! exports in nbd-server's own syntax, and the certificates of the NBD port.

use std::path::{Path, PathBuf};
use std::sync::Weak;

use sendense_engine::declared::{self, Problem, ReloadReport};
use sendense_engine::plane::{ListenerHandle, ListenerPolicy};
use sendense_nbd::TlsMode;
use sendense_nbd::tls::{ClientCertificates, TlsError, server_config};

use super::{Fault, Result, Service, blocking};
use crate::auth::Caller;
use crate::store::AuditRow;
use crate::types::{Code, Reload, Time};

/// The certificates of the NBD port, and the port that shows them.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    clients: ClientCertificates,
    listener: Weak<ListenerHandle>,
}

impl Certificates {
    /// Those in `directory`, shown by `listener`: for as long as somebody else keeps that.
    pub const fn new(
        directory: PathBuf,
        clients: ClientCertificates,
        listener: Weak<ListenerHandle>,
    ) -> Self {
        Self {
            directory,
            clients,
            listener,
        }
    }

    fn read(&self) -> std::result::Result<ListenerPolicy, TlsError> {
        let tls = TlsMode::Required(server_config(&self.directory, self.clients)?);
        Ok(ListenerPolicy { tls })
    }
}

impl Service {
    /// Says which certificates a reload reads again; once, when the port listens.
    pub fn set_certificates(&self, certificates: Certificates) {
        // The port does not change while the daemon runs, so there is no second word.
        let _ = self.inner.certificates.set(certificates);
    }

    /// Brings the exports to what the files say now, and shows the certificates that are there
    /// now to whoever connects from now on. Where any of the files cannot be used, nothing changes.
    pub async fn reload_exports(&self, caller: &Caller) -> Result<Reload> {
        let exports = self.config().nbd.exports.clone();
        if exports.is_none() && self.config().nbd.tls_dir.is_none() {
            return Err(Fault::new(
                Code::WrongState,
                "the configuration names no file of exports and no certificates",
            )
            .hint("set nbd.exports or nbd.tls_dir in the daemon's configuration and restart it"));
        }
        let service = self.clone();
        let (report, renewed) = blocking(move || {
            service
                .reload_files(exports.as_deref())
                .map_err(|problems| refused(&problems))
        })
        .await?;
        for note in &report.notes {
            tracing::info!("{note}");
        }
        let view = Reload {
            certificates: renewed,
            ..view(&report)
        };
        let mut tx = self.store().begin_write().await?;
        tx.audit(&AuditRow {
            at: Time::now().micros(),
            actor: caller.name.clone(),
            action: "exports.reload".to_owned(),
            object: String::new(),
            detail: format!(
                "{} added, {} changed, {} removed, {} refused{}",
                view.added.len(),
                view.changed.len(),
                view.removed.len(),
                view.refused.len(),
                if renewed { ", certificates read" } else { "" }
            ),
        })
        .await?;
        tx.commit().await?;
        Ok(view)
    }

    /// All of the files or none of them; says whether certificates were among them. Blocking.
    fn reload_files(
        &self,
        exports: Option<&Path>,
    ) -> std::result::Result<(ReloadReport, bool), Vec<Problem>> {
        // Two reloads at once could show the older certificates last.
        let _one = super::lock(&self.inner.reloading);
        let certificates = self.inner.certificates.get();
        let policy = match certificates.map(Certificates::read).transpose() {
            Ok(policy) => policy,
            Err(e) => {
                let mut problems = vec![certificate_problem(&e)];
                // What can be told about the exports without touching them.
                problems.extend(
                    exports
                        .and_then(|file| declared::read(file).err())
                        .into_iter()
                        .flatten(),
                );
                return Err(problems);
            }
        };
        let report = match exports {
            Some(file) => self.inner.declared.reload(file)?,
            None => ReloadReport::default(),
        };
        let listener = certificates.and_then(|c| c.listener.upgrade());
        let Some((listener, policy)) = listener.zip(policy) else {
            return Ok((report, false));
        };
        listener.set_policy(policy);
        Ok((report, true))
    }
}

fn certificate_problem(error: &TlsError) -> Problem {
    let (file, text) = match error {
        TlsError::File { path, what } => (path, what.clone()),
        TlsError::Mismatch { directory, source } => (
            directory,
            format!("{source}; the key must belong to the certificate"),
        ),
        other => {
            return Problem {
                file: String::new(),
                line: 0,
                text: other.to_string(),
            };
        }
    };
    Problem {
        file: file.display().to_string(),
        line: 0,
        text,
    }
}

fn refused(problems: &[Problem]) -> Fault {
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let first = all.first().cloned().unwrap_or_default();
    let detail = match all.len() {
        0 | 1 => first,
        n => format!("{first} (and {} more)", n - 1),
    };
    Fault::invalid(format!(
        "exports and certificates stay as they were: {detail}"
    ))
    .hint("correct the files, then reload")
    .member("problems", all)
}

fn view(report: &ReloadReport) -> Reload {
    Reload {
        added: report.added.clone(),
        removed: report.removed.clone(),
        certificates: false,
        changed: report.changed.clone(),
        unchanged: report.unchanged as u64,
        refused: report
            .refused
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect(),
        notes: report.notes.iter().map(ToString::to_string).collect(),
    }
}
