//! Completing: freeze and prepare each disk as its word comes, commit after the last, then the
//! catalog.
//!
//! The same word again is fine, another token is not, and a word of which a part is refused changes
//! nothing. A disk of which not everything was sent is
//! refused with the missing ranges and takes writes again.

use std::sync::Arc;
use std::time::Duration;

use sendense_engine::ingest::Ingest;
use sendense_engine::repository::{BackupId, ChangeToken, DiskNumber, PreparedDisk, RestorePoint};
use sendense_nbd::registry::Removal;
use tokio::time::{Instant, timeout_at};

use super::running::{Part, Running, Stage, State};
use crate::auth::Caller;
use crate::service::{Fault, Result, Service, blocking, catalog};
use crate::types::{Backup, Code, Complete, CompleteDisk, JobStatus, Time};

/// How long a refusal is waited for where the caller does not wait for the seal: coverage is known
/// as soon as the export has drained.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);
/// The longest wait for the seal.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long clients may stay connected to a sealed disk.
const GOODBYE: Duration = Duration::from_secs(60);

/// A disk that is said to be complete, and the token that was given with it.
type Word = (u32, Option<ChangeToken>);

/// The words of a request. One that names a disk twice says nothing.
fn words(named: &[CompleteDisk]) -> Result<Vec<Word>> {
    let mut words: Vec<Word> = Vec::with_capacity(named.len());
    for disk in named {
        if words.iter().any(|(id, _)| *id == disk.disk_id) {
            return Err(Fault::invalid(format!(
                "disk {} is named twice",
                disk.disk_id
            )));
        }
        let token = disk.change_id.clone().map(ChangeToken::parse);
        words.push((disk.disk_id, token.transpose()?));
    }
    Ok(words)
}

/// The disks that a mover may say are complete: all that movers write, or those that it names. A
/// disk that the daemon reads itself is complete when it has read it, and nobody else knows.
fn pushed(state: &State, named: Vec<Word>) -> Result<Vec<Word>> {
    let is_pulled = |number: u32| {
        let disk = state.disks.iter().find(|d| d.number.get() == number);
        disk.is_some_and(|d| d.export.is_none())
    };
    let asked: Vec<Word> = if named.is_empty() {
        let all = state.disks.iter().map(|d| d.number.get());
        all.filter(|n| !is_pulled(*n)).map(|n| (n, None)).collect()
    } else {
        named
    };
    let pulled = asked.iter().find(|(id, _)| is_pulled(*id));
    if asked.is_empty() || pulled.is_some() {
        return Err(Fault::new(
            Code::WrongState,
            "the daemon reads this disk itself, and completes it when it has read all of it",
        )
        .hint("wait for the job: `sendense-ctl job watch`"));
    }
    Ok(asked)
}

/// Whether a job still takes words: no where it has ended.
fn takes_words(state: &State) -> Result<bool> {
    match &state.stage {
        Stage::Open | Stage::Committing | Stage::Recording => Ok(true),
        Stage::InDoubt(fault) => Err(fault.clone()),
        Stage::Ending => Err(Fault::new(Code::WrongState, "it is being ended")),
        Stage::Ended(_) => Ok(false),
    }
}

/// Looks whether a word can be taken; nothing is changed by it.
fn check(state: &State, id: &str, (number, given): &Word) -> Result<()> {
    let disk = state.disks.iter().find(|d| d.number.get() == *number);
    let disk = disk.ok_or_else(|| no_disk(id, *number))?;
    let fixed = disk.part.token().or(disk.given_token.as_ref());
    match (given, fixed) {
        (Some(given), Some(fixed)) if given != fixed => {
            Err(conflict(*number, Some(fixed.as_str())))
        }
        _ => Ok(()),
    }
}

/// Disks by number, each with the number of its attempt to be completed.
type Attempts = Vec<(u32, u64)>;

/// A disk that is to be prepared from now on.
struct Begun {
    number: DiskNumber,
    ingest: Arc<Ingest>,
    token: ChangeToken,
    attempt: u64,
}

impl Service {
    /// `POST /backup/{id}/complete`. Says whether the point exists by now.
    pub async fn complete_backup(
        &self,
        caller: &Caller,
        id: &str,
        body: Complete,
        wait: Duration,
    ) -> Result<(Backup, bool)> {
        let id = self.resolve_backup(id, None).await?;
        let Some(running) = self.running_job(&id).filter(|r| !r.has_ended()) else {
            return self.complete_ended(caller, &id, &body).await;
        };
        let Some(attempts) = self.complete_pushed(&running, &body)? else {
            return self.complete_ended(caller, &id, &body).await;
        };
        self.await_seal(&running, &attempts, wait.min(MAX_WAIT))
            .await?;
        let view = self.view_backup(caller, &id).await?;
        let sealed = view.status == JobStatus::Completed;
        Ok((view, sealed))
    }

    /// The word on a job that no longer runs.
    async fn complete_ended(
        &self,
        caller: &Caller,
        id: &str,
        body: &Complete,
    ) -> Result<(Backup, bool)> {
        let view = self.view_backup(caller, id).await?;
        if view.status != JobStatus::Completed {
            let why = view
                .error_message
                .as_deref()
                .unwrap_or("nothing is left of it");
            return Err(Fault::new(
                Code::WrongState,
                format!("{id} is {}: {why}", view.status),
            ));
        }
        words(&body.disks)?;
        for asked in &body.disks {
            let disk = view.disks.iter().find(|d| d.disk_id == asked.disk_id);
            let disk = disk.ok_or_else(|| no_disk(id, asked.disk_id))?;
            if let Some(token) = &asked.change_id
                && disk.change_id.as_ref() != Some(token)
            {
                return Err(conflict(asked.disk_id, disk.change_id.as_deref()));
            }
        }
        Ok((view, true))
    }

    /// A mover's word. All of it is taken, or none: then every disk is as it was. `None` where the
    /// job has ended meanwhile.
    pub(crate) fn complete_pushed(
        &self,
        running: &Arc<Running>,
        body: &Complete,
    ) -> Result<Option<Attempts>> {
        let named = words(&body.disks)?;
        let mut state = running.state();
        if !takes_words(&state)? {
            return Ok(None);
        }
        let asked = pushed(&state, named)?;
        let (attempts, begun) = take(&mut state, &running.id, asked)?;
        drop(state);
        self.prepare(running, begun);
        Ok(Some(attempts))
    }

    /// The daemon's own word on a disk that it has read.
    pub(super) fn complete_disk(&self, running: &Arc<Running>, asked: &CompleteDisk) -> Result<()> {
        let named = words(std::slice::from_ref(asked))?;
        let mut state = running.state();
        if !takes_words(&state)? {
            return Ok(());
        }
        let (_, begun) = take(&mut state, &running.id, named)?;
        drop(state);
        self.prepare(running, begun);
        Ok(())
    }

    fn prepare(&self, running: &Arc<Running>, begun: Vec<Begun>) {
        if !begun.is_empty() {
            running.notify();
        }
        for disk in begun {
            self.prepare_disk(running, disk);
        }
    }

    /// Prepares one disk in the background; the last one commits.
    fn prepare_disk(&self, running: &Arc<Running>, begun: Begun) {
        let Begun {
            number,
            ingest,
            token,
            attempt,
        } = begun;
        let (service, running) = (self.clone(), Arc::clone(running));
        tokio::spawn(async move {
            let prepared = service
                .on_plane(move |io| async move { Ok(ingest.prepare(&io).await?) })
                .await;
            let last = {
                let mut state = running.state();
                let open = matches!(state.stage, Stage::Open);
                let disk = state.disks.iter_mut().find(|d| d.number == number);
                let Some(disk) = disk.filter(|_| open) else {
                    return;
                };
                match prepared {
                    Ok(prepared) => {
                        disk.part = Part::Prepared(token, Box::new(prepared));
                        let whole = |d: &super::running::Disk| matches!(d.part, Part::Prepared(..));
                        let last = state.disks.iter().all(whole);
                        if last {
                            state.stage = Stage::Committing;
                        }
                        Ok(last)
                    }
                    // A disk that the daemon reads has nobody who could send what is missing.
                    Err(fault)
                        if fault.code == Code::IncompleteCoverage && disk.export.is_some() =>
                    {
                        disk.part = Part::Open;
                        disk.refused = Some((attempt, fault.member("disk_id", number.get())));
                        Ok(false)
                    }
                    Err(fault) => Err(fault),
                }
            };
            running.notify();
            match last {
                Ok(true) => service.commit(&running).await,
                Ok(false) => {}
                Err(fault) => service.fail(&running, fault).await,
            }
        });
    }

    /// Waits until these disks are prepared or refused, and then for the point, as long as asked.
    async fn await_seal(
        &self,
        running: &Running,
        attempts: &[(u32, u64)],
        wait: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut changed = running.watch();
        loop {
            let deadline = {
                let state = running.state();
                if let Stage::Ended(outcome) = &state.stage {
                    return outcome.clone().map_or(Ok(()), Err);
                }
                if let Stage::InDoubt(fault) = &state.stage {
                    return Err(fault.clone());
                }
                let mut preparing = false;
                for (id, attempt) in attempts {
                    let disk = state.disks.iter().find(|d| d.number.get() == *id);
                    let Some(disk) = disk else { continue };
                    if let Some((refused, fault)) = &disk.refused
                        && refused == attempt
                    {
                        return Err(fault.clone());
                    }
                    preparing |= matches!(disk.part, Part::Preparing(_));
                }
                let others = state.disks.iter().any(|d| d.part.token().is_none());
                match (preparing, others) {
                    (true, _) => begun + wait.max(REFUSAL_WAIT),
                    // Other disks are still to come: nothing to wait for.
                    (false, true) => return Ok(()),
                    (false, false) => begun + wait,
                }
            };
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Ok(());
            }
        }
    }

    /// All disks are whole: one point of them, then the catalog.
    async fn commit(&self, running: &Arc<Running>) {
        let (service, job) = (self.clone(), Arc::clone(running));
        let made = tokio::spawn(async move { service.make_point(&job).await }).await;
        let point = made.unwrap_or_else(|e| Err(doubt(&running.id, &e)));
        match point {
            Ok(point) => {
                running.enter(Stage::Recording);
                self.close_exports(running);
                self.record(running, &point).await;
            }
            Err(fault) if fault.code == Code::InDoubt => {
                tracing::error!(backup = %running.id, "{fault}");
                running.enter(Stage::InDoubt(fault));
            }
            Err(fault) => {
                running.enter(Stage::Open);
                self.fail(running, fault).await;
            }
        }
    }

    async fn make_point(&self, running: &Running) -> Result<Arc<RestorePoint>> {
        let mut disks = Vec::new();
        let now = Time::now();
        for disk in &mut running.state().disks {
            let Part::Prepared(token, prepared) = &disk.part else {
                return Err(Fault::internal("a disk is not prepared"));
            };
            let growing = disk
                .growing
                .take()
                .ok_or_else(|| Fault::internal("a disk has lost its file"))?;
            disks.push(PreparedDisk::received(
                growing,
                (**prepared).clone(),
                Some(token.clone()),
                now.into(),
            ));
        }
        let repository = running.repository.clone();
        let commit = move || repository.commit(disks, Time::now().into());
        committed(&running.id, commit).await
    }

    /// Step 10, until it is done: meanwhile this machine's starts and deletes are refused.
    async fn record(&self, running: &Arc<Running>, point: &RestorePoint) {
        let mut pause = Duration::from_millis(100);
        while let Err(fault) = self.record_sealed(running, point).await {
            tracing::error!(backup = %running.id, "the catalog does not take the point: {fault}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        tracing::info!(backup = %running.id, "sealed");
        self.jobs().remove(running.id.as_str());
        running.enter(Stage::Ended(None));
    }

    async fn record_sealed(&self, running: &Running, point: &RestorePoint) -> Result<()> {
        let (repository, vm) = (running.repository.clone(), running.vm);
        let mut tx = self.store().begin_write().await?;
        // Read with the writer's turn: another job of this machine may be at its own step 10, and
        // whoever writes last has to have seen both points.
        let points = blocking(move || Ok(repository.points(vm)?)).await?;
        let (vm, repository) = (vm.to_string(), running.repository.id().to_string());
        catalog::record_point(self.store(), &mut tx, point).await?;
        tx.place_last(&vm, running.id.as_str()).await?;
        catalog::record_order(&mut tx, &vm, &repository, &points).await?;
        catalog::record_chains(&mut tx, &vm, &repository, &points).await?;
        tx.commit().await?;
        Ok(())
    }

    /// No new clients; those that are connected may say goodbye.
    fn close_exports(&self, running: &Running) {
        let registry = Arc::clone(self.plane().registry());
        let names: Vec<String> = {
            let state = running.state();
            let exports = state.disks.iter().filter_map(|d| d.export.as_ref());
            exports.map(|e| e.reveal()).collect()
        };
        for name in names {
            // It may be gone by itself at a shutdown.
            let _ = registry.remove(&name, Removal::Drain);
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                tokio::time::sleep(GOODBYE).await;
                registry.cut_draining(&name);
            });
        }
    }

    /// Refuses what would build on a catalog that is behind the repository.
    pub(in crate::service) fn refuse_while_recording(&self, vm_id: &str) -> Result<()> {
        let all = self.jobs().all();
        for running in all.iter().filter(|r| r.vm.to_string() == vm_id) {
            match &running.state().stage {
                Stage::Recording => {
                    return Err(Fault::new(
                        Code::Unavailable,
                        format!(
                            "{} is sealed, and the catalog is still to learn it",
                            running.id
                        ),
                    ));
                }
                Stage::InDoubt(fault) => return Err(fault.clone()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes words: looks at all of them, then freezes the disks that were open. Answers the attempt
/// of each disk, and what is to be prepared.
fn take(state: &mut State, id: &BackupId, asked: Vec<Word>) -> Result<(Attempts, Vec<Begun>)> {
    for word in &asked {
        check(state, id.as_str(), word)?;
    }
    let (mut attempts, mut begun) = (Vec::with_capacity(asked.len()), Vec::new());
    for (number, given) in asked {
        let disk = state.disks.iter_mut().find(|d| d.number.get() == number);
        let disk = disk.ok_or_else(|| no_disk(id.as_str(), number))?;
        if disk.part.token().is_none() {
            let token = given
                .or_else(|| disk.given_token.clone())
                .unwrap_or_else(|| ChangeToken::of_backup(id));
            disk.part = Part::Preparing(token.clone());
            disk.attempts += 1;
            begun.push(Begun {
                number: disk.number,
                ingest: Arc::clone(&disk.ingest),
                token,
                attempt: disk.attempts,
            });
        }
        attempts.push((number, disk.attempts));
    }
    Ok((attempts, begun))
}

/// Runs the commit of a backup; one that panics has not failed, it is in doubt.
async fn committed<T: Send + 'static>(
    id: &BackupId,
    commit: impl FnOnce() -> sendense_engine::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(commit).await {
        Ok(point) => Ok(point?),
        Err(e) => Err(doubt(id, &e)),
    }
}

/// The commit came to no answer. Its one rename may have happened, so the job has not failed: the
/// next start's recovery finds out.
fn doubt(id: &BackupId, why: &tokio::task::JoinError) -> Fault {
    Fault::new(
        Code::InDoubt,
        format!("whether {id} was sealed is not known: the commit ended badly: {why}"),
    )
}

fn no_disk(id: &str, disk: u32) -> Fault {
    Fault::new(Code::DiskNotFound, format!("{id} has no disk {disk}"))
}

fn conflict(disk: u32, token: Option<&str>) -> Fault {
    Fault::new(
        Code::TokenConflict,
        format!(
            "disk {disk} was completed with the change token {:?}",
            token.unwrap_or_default()
        ),
    )
}

#[cfg(test)]
mod tests {
    use sendense_engine::{Error, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn a_commit_that_panics_is_in_doubt_and_one_that_is_refused_has_failed() {
        let id = BackupId::parse("backup-web1-20251004120000").unwrap();
        let panics = || -> sendense_engine::Result<()> { panic!("in the middle of it") };
        let e = committed(&id, panics).await.unwrap_err();
        assert_eq!(e.code, Code::InDoubt);
        assert!(e.detail.contains(id.as_str()), "{e}");
        let full = || -> sendense_engine::Result<()> { Err(Error::new(ErrorKind::NoSpace, "x")) };
        let e = committed(&id, full).await.unwrap_err();
        assert_eq!(e.code, Code::NoSpace);
        committed(&id, || Ok(())).await.unwrap();
    }
}
