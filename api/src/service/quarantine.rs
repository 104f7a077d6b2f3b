//! What recovery has put aside, and making restore points of it again.

use sendense_engine::ErrorKind;
use sendense_engine::repository::{BackupId, QuarantineFind, Repository, RestorePoint, VmId};
use sendense_engine::transfer::Progress;

use super::{Fault, Result, Service, blocking, catalog, to_the_end};
use crate::auth::Caller;
use crate::store::AuditRow;
use crate::types::{Backup, Code, Quarantine, QuarantineItem, Time};

/// How often the catalog is tried once the point exists, and how long between.
const TRIES: u32 = 10;
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

impl Service {
    /// `GET /repositories/{name}/quarantine`.
    pub async fn list_quarantine(&self, repository: &str) -> Result<Quarantine> {
        let open = self.repository(Some(repository))?.repository.clone();
        let name = open.name().to_owned();
        let finds = blocking(move || Ok(open.quarantine()?)).await?;
        Ok(Quarantine {
            repository: name,
            finds: finds.into_iter().map(view).collect(),
        })
    }

    /// `POST /repositories/{name}/quarantine/{backup_id}/adopt`: the whole id.
    pub async fn adopt(&self, caller: &Caller, repository: &str, id: &str) -> Result<Backup> {
        let repository = self.repository(Some(repository))?.repository.clone();
        let id = BackupId::parse(id)?;
        let (service, caller) = (self.clone(), caller.clone());
        to_the_end(async move { service.adopt_point(&caller, repository, id).await }).await
    }

    async fn adopt_point(
        &self,
        caller: &Caller,
        repository: Repository,
        id: BackupId,
    ) -> Result<Backup> {
        let (looking, wanted) = (repository.clone(), id.clone());
        let vm = blocking(move || {
            let finds = looking.quarantine()?;
            let of = |f: &&QuarantineFind| f.record.as_ref().is_some_and(|r| r.backup_id == wanted);
            Ok(finds.iter().find(of).map(|f| f.vm))
        })
        .await?;
        let Some(vm) = vm else {
            return Err(Fault::new(
                Code::BackupNotFound,
                format!("nothing of {id} lies in quarantine"),
            )
            .hint("`sendense-ctl repo quarantine` shows what does"));
        };
        self.refuse_while_recording(&vm.to_string())?;
        let (adopting, wanted) = (repository.clone(), id.clone());
        let point = blocking(move || {
            let now = Time::now().into();
            adopting
                .adopt(vm, &wanted, now, &Progress::new())
                .map_err(|e| match e.kind {
                    ErrorKind::WrongState => Fault::from(e).hint(
                        "its files stay in quarantine: nothing is lost; run a new backup where \
                         the chain has moved on",
                    ),
                    _ => e.into(),
                })
        })
        .await?;
        for attempt in 1.. {
            match self.record_adopted(caller, &repository, vm, &point).await {
                Ok(()) => break,
                Err(e) if attempt == TRIES => return Err(e),
                Err(e) => tracing::warn!(backup = %id, "the catalog does not follow yet: {e}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(backup = %id, "was adopted out of quarantine");
        self.view_backup(caller, id.as_str()).await
    }

    /// Step 10. Where it fails for good the next start takes the manifest in.
    async fn record_adopted(
        &self,
        caller: &Caller,
        repository: &Repository,
        vm: VmId,
        point: &RestorePoint,
    ) -> Result<()> {
        let reading = repository.clone();
        let mut tx = self.store().begin_write().await?;
        // As at a seal: read with the writer's turn, and the newest by its place as well.
        let points = blocking(move || Ok(reading.points(vm)?)).await?;
        let (vm, repository_id) = (vm.to_string(), repository.id().to_string());
        catalog::record_point(self.store(), &mut tx, point).await?;
        tx.place_last(&vm, point.id().as_str()).await?;
        catalog::record_order(&mut tx, &vm, &repository_id, &points).await?;
        catalog::record_chains(&mut tx, &vm, &repository_id, &points).await?;
        tx.audit(&AuditRow {
            at: Time::now().micros(),
            actor: caller.name.clone(),
            action: "backup.adopt".to_owned(),
            object: point.id().as_str().to_owned(),
            detail: format!("out of the quarantine of {}", repository.name()),
        })
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn view(find: QuarantineFind) -> QuarantineItem {
    let record = find.record.as_deref();
    QuarantineItem {
        backup_id: record.map(|r| r.backup_id.as_str().to_owned()),
        vm_id: find.vm.to_string(),
        vm_name: record.map(|r| r.vm_name.clone()),
        disk_id: find.disk.get(),
        backup_type: record.and_then(|r| r.kind.as_str().parse().ok()),
        size_bytes: record.map(|r| r.virtual_size),
        bytes: find.bytes,
        parent_backup_id: record
            .and_then(|r| r.parent.as_ref())
            .map(|p| p.backup_id.as_str().to_owned()),
        locator: find.path,
        adoptable: find.why_not.is_none(),
        why_not: find.why_not,
    }
}
