//! Exports that files declare, in nbd-server's own syntax: loaded at the start, loaded again by
//! SIGHUP and by `POST /exports/reload`.

use sendense_engine::declared::{Problem, ReloadReport};

use super::{Fault, Result, Service, blocking};
use crate::auth::Caller;
use crate::store::AuditRow;
use crate::types::{Code, Reload, Time};

impl Service {
    /// Brings the exports to what the files say now. A file that cannot be used changes nothing.
    pub async fn reload_exports(&self, caller: &Caller) -> Result<Reload> {
        let Some(file) = self.config().nbd.exports.clone() else {
            return Err(Fault::new(
                Code::WrongState,
                "the configuration names no file of exports",
            )
            .hint("set nbd.exports in the daemon's configuration and restart it"));
        };
        let service = self.clone();
        let report = blocking(move || {
            let exports = &service.inner.declared;
            exports.reload(&file).map_err(|problems| refused(&problems))
        })
        .await?;
        for note in &report.notes {
            tracing::info!("{note}");
        }
        let view = view(&report);
        let mut tx = self.store().begin_write().await?;
        tx.audit(&AuditRow {
            at: Time::now().micros(),
            actor: caller.name.clone(),
            action: "exports.reload".to_owned(),
            object: String::new(),
            detail: format!(
                "{} added, {} changed, {} removed, {} refused",
                view.added.len(),
                view.changed.len(),
                view.removed.len(),
                view.refused.len()
            ),
        })
        .await?;
        tx.commit().await?;
        Ok(view)
    }
}

fn refused(problems: &[Problem]) -> Fault {
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let first = all.first().cloned().unwrap_or_default();
    let detail = match all.len() {
        0 | 1 => first,
        n => format!("{first} (and {} more)", n - 1),
    };
    Fault::invalid(format!("the exports stay as they were: {detail}"))
        .hint("correct the files, then reload")
        .member("problems", all)
}

fn view(report: &ReloadReport) -> Reload {
    Reload {
        added: report.added.clone(),
        removed: report.removed.clone(),
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
