//! One method for each route.

use std::time::Duration;

use super::{Client, Result, segment};
use crate::types::{
    Backup, BackupList, Complete, Deletion, ExportList, Health, Job, JobList, NewVm, Quarantine,
    Reload, RepositoryList, RestoreDisk, RestoreExport, RestoreExportList, RestoreExportRequest,
    StartBackup, Vm, VmChains, VmList,
};

/// What a list of backups is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct BackupQuery {
    /// One machine, by name.
    pub vm_name: Option<String>,
    /// One machine, by id.
    pub vm_id: Option<String>,
    /// One state, or `all`; sealed points where it is left out.
    pub status: Option<String>,
    /// One repository.
    pub repository: Option<String>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Rows per page.
    pub limit: Option<u32>,
}

fn page(cursor: Option<&str>, limit: Option<u32>) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    query.extend(cursor.map(|c| ("cursor", c.to_owned())));
    query.extend(limit.map(|n| ("limit", n.to_string())));
    query
}

/// A machine in a query: by id where it looks like one, else by name.
fn machine(vm: &str) -> (&'static str, String) {
    let name = match uuid::Uuid::parse_str(vm) {
        Ok(_) => "vm_id",
        Err(_) => "vm_name",
    };
    (name, vm.to_owned())
}

impl Client {
    /// `GET /health`.
    pub fn health(&self) -> Result<Health> {
        self.get("/health", &[])
    }

    /// `POST /vms`.
    pub fn add_vm(&self, vm: &NewVm) -> Result<Vm> {
        self.post("/vms", &[], vm)
    }

    /// `GET /vms`.
    pub fn vms(&self, cursor: Option<&str>, limit: Option<u32>) -> Result<VmList> {
        self.get("/vms", &page(cursor, limit))
    }

    /// `GET /vms/{id}`, by id or name.
    pub fn vm(&self, id: &str) -> Result<Vm> {
        self.get(&format!("/vms/{}", segment(id)), &[])
    }

    /// `POST /backup/start`.
    pub fn start_backup(&self, start: &StartBackup) -> Result<Backup> {
        self.post("/backup/start", &[], start)
    }

    /// `PUT /backup/{id}/disks/{n}/changes`, streamed.
    pub fn put_changes(&self, id: &str, disk: u32, file: std::fs::File) -> Result<Backup> {
        let path = format!("/backup/{}/disks/{disk}/changes", segment(id));
        self.put_file(&path, file)
    }

    /// `POST /backup/{id}/complete`, waiting for the seal up to `wait`.
    pub fn complete_backup(&self, id: &str, body: &Complete, wait: Duration) -> Result<Backup> {
        let path = format!("/backup/{}/complete", segment(id));
        self.post(&path, &[("wait", wait.as_secs().to_string())], body)
    }

    /// `POST /backup/{id}/cancel`.
    pub fn cancel_backup(&self, id: &str) -> Result<Backup> {
        self.post(
            &format!("/backup/{}/cancel", segment(id)),
            &[],
            &serde_json::json!({}),
        )
    }

    /// `POST /backup/{id}/verify`.
    pub fn verify_backup(&self, id: &str) -> Result<Job> {
        self.post(
            &format!("/backup/{}/verify", segment(id)),
            &[],
            &serde_json::json!({}),
        )
    }

    /// `GET /backup/{id}`; `vm` narrows `latest`.
    pub fn backup(&self, id: &str, vm: Option<&str>) -> Result<Backup> {
        let query: Vec<_> = vm.map(machine).into_iter().collect();
        self.get(&format!("/backup/{}", segment(id)), &query)
    }

    /// `GET /backup/list`.
    pub fn backups(&self, q: &BackupQuery) -> Result<BackupList> {
        let mut query = page(q.cursor.as_deref(), q.limit);
        query.extend(q.vm_name.clone().map(|v| ("vm_name", v)));
        query.extend(q.vm_id.clone().map(|v| ("vm_id", v)));
        query.extend(q.status.clone().map(|v| ("status", v)));
        query.extend(q.repository.clone().map(|v| ("repository", v)));
        self.get("/backup/list", &query)
    }

    /// `GET /backup/chain`, by the machine's name or id.
    pub fn chain(&self, vm: &str) -> Result<VmChains> {
        self.get("/backup/chain", &[machine(vm)])
    }

    /// `DELETE /backup/{id}`.
    pub fn delete_backup(
        &self,
        id: &str,
        with_dependents: bool,
        dry_run: bool,
    ) -> Result<Deletion> {
        let query = [
            ("with_dependents", with_dependents.to_string()),
            ("dry_run", dry_run.to_string()),
        ];
        self.delete(&format!("/backup/{}", segment(id)), &query)
    }

    /// `POST /restore/disk`.
    pub fn restore_disk(&self, restore: &RestoreDisk) -> Result<Job> {
        self.post("/restore/disk", &[], restore)
    }

    /// `POST /restore/export`.
    pub fn restore_export(&self, request: &RestoreExportRequest) -> Result<RestoreExport> {
        self.post("/restore/export", &[], request)
    }

    /// `GET /restore/exports`.
    pub fn restore_exports(&self) -> Result<RestoreExportList> {
        self.get("/restore/exports", &[])
    }

    /// `DELETE /restore/export/{id}`.
    pub fn end_restore_export(&self, id: &str) -> Result<RestoreExport> {
        self.delete(&format!("/restore/export/{}", segment(id)), &[])
    }

    /// `GET /jobs`.
    pub fn jobs(&self, cursor: Option<&str>, limit: Option<u32>) -> Result<JobList> {
        self.get("/jobs", &page(cursor, limit))
    }

    /// `GET /jobs/{id}`.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.get(&format!("/jobs/{}", segment(id)), &[])
    }

    /// `POST /jobs/{id}/cancel`.
    pub fn cancel_job(&self, id: &str) -> Result<Job> {
        self.post(
            &format!("/jobs/{}/cancel", segment(id)),
            &[],
            &serde_json::json!({}),
        )
    }

    /// `GET /repositories`.
    pub fn repositories(&self) -> Result<RepositoryList> {
        self.get("/repositories", &[])
    }

    /// `GET /repositories/{name}/quarantine`.
    pub fn quarantine(&self, repository: &str) -> Result<Quarantine> {
        let path = format!("/repositories/{}/quarantine", segment(repository));
        self.get(&path, &[])
    }

    /// `POST /repositories/{name}/quarantine/{backup_id}/adopt`.
    pub fn adopt(&self, repository: &str, backup_id: &str) -> Result<Backup> {
        let (name, id) = (segment(repository), segment(backup_id));
        let path = format!("/repositories/{name}/quarantine/{id}/adopt");
        self.post(&path, &[], &serde_json::json!({}))
    }

    /// `GET /exports`.
    pub fn exports(&self) -> Result<ExportList> {
        self.get("/exports", &[])
    }

    /// `POST /exports/reload`.
    pub fn reload_exports(&self) -> Result<Reload> {
        self.post("/exports/reload", &[], &serde_json::json!({}))
    }
}
