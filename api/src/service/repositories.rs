//! The repositories that are open in this daemon.

use std::path::{Path, PathBuf};

use sendense_engine::repository::{Repository, RepositoryOptions, SpaceVerdict};
use sendense_engine::storage::local::{LocalDirectory, create_path};

use super::{Fault, Result, Service, blocking};
use crate::auth::Caller;
use crate::store::RepositoryRow;
use crate::types::{Code, Repository as View, RepositoryList, Time};

/// A repository and where it is.
#[derive(Debug, Clone)]
pub struct OpenRepository {
    /// The repository.
    pub repository: Repository,
    /// Its directory on this host.
    pub path: PathBuf,
}

impl OpenRepository {
    /// Opens the `local` repository `name` at `path`, and makes it where nothing is there. With
    /// `known`, the id that the catalog has of it, nothing is made: an empty or missing directory
    /// is then one whose file system is not mounted. Blocking.
    pub fn local(name: &str, path: &Path, known: Option<&str>) -> Result<Self> {
        let at = |e| Fault::io(format!("the repository {name} at {}", path.display()), e);
        if known.is_none() {
            create_path(path, 0o777).map_err(at)?;
        }
        let directory = LocalDirectory::open(path).map_err(at)?;
        let options = RepositoryOptions {
            name: name.to_owned(),
            software: concat!("sendense ", env!("CARGO_PKG_VERSION")).to_owned(),
            owner: format!("sendensed, process {}", std::process::id()),
            reserve: None,
            warn: None,
            now: Time::now().into(),
        };
        let repository = match known {
            None => Repository::open_or_create(directory, options)?,
            Some(_) => Repository::open(directory, options)?,
        };
        let found = repository.id().to_string();
        if let Some(known) = known.filter(|known| **known != found) {
            return Err(Fault::new(
                Code::RepositoryNotFound,
                format!(
                    "the repository at {} is another one: its id is {found}, and the catalog \
                     knows {known}",
                    path.display()
                ),
            )
            .hint("mount the right file system there, or move the repository back"));
        }
        Ok(Self {
            repository,
            path: path.to_owned(),
        })
    }

    /// The row that the catalog keeps of it. Blocking.
    pub(super) fn row(&self) -> Result<RepositoryRow> {
        let space = self.repository.space()?.space;
        let now = Time::now().micros();
        let config = serde_json::json!({"path": self.path});
        Ok(RepositoryRow {
            id: self.repository.id().to_string(),
            name: self.repository.name().to_owned(),
            repository_type: "local".to_owned(),
            config: config.to_string(),
            enabled: 1,
            total_size_bytes: space.total,
            available_size_bytes: space.available,
            created_at: now,
            updated_at: now,
        })
    }
}

impl Service {
    /// The repository with this name or id; `local` where none is named.
    pub(super) fn repository(&self, name: Option<&str>) -> Result<&OpenRepository> {
        let name = name.unwrap_or("local");
        self.inner
            .repositories
            .iter()
            .find(|r| r.repository.name() == name || r.repository.id().to_string() == name)
            .ok_or_else(|| {
                Fault::new(
                    Code::RepositoryNotFound,
                    format!("there is no repository {name:?}"),
                )
            })
    }

    /// All of them.
    pub(super) fn open_repositories(&self) -> &[OpenRepository] {
        &self.inner.repositories
    }

    /// A repository's name by its id, as far as it is open.
    pub(super) fn repository_name(&self, id: &str) -> String {
        self.repository(Some(id))
            .map_or_else(|_| id.to_owned(), |r| r.repository.name().to_owned())
    }

    /// `GET /repositories`.
    pub async fn list_repositories(&self, caller: &Caller) -> Result<RepositoryList> {
        let mut repositories = Vec::new();
        for row in self.store().repositories().await? {
            let backup_count = self.store().sealed_count(&row.id).await?;
            let mut view = View {
                backup_count,
                total_size_bytes: row.total_size_bytes,
                available_size_bytes: row.available_size_bytes,
                enabled: row.enabled != 0,
                repository_id: row.id.clone(),
                name: row.name,
                repository_type: row.repository_type,
                path: None,
                problems: Vec::new(),
            };
            match self.repository(Some(&row.id)) {
                Ok(open) => {
                    let repository = open.repository.clone();
                    match blocking(move || Ok(repository.space()?)).await {
                        Ok(state) => {
                            view.total_size_bytes = state.space.total;
                            view.available_size_bytes = state.space.available;
                            match state.verdict {
                                SpaceVerdict::Enough => {}
                                SpaceVerdict::Low => view.problems.push("space is low".into()),
                                SpaceVerdict::Exhausted => view
                                    .problems
                                    .push("space is exhausted: no backup begins".into()),
                            }
                        }
                        Err(fault) => view.problems.push(fault.detail),
                    }
                    if caller.sees_secrets() {
                        view.path = Some(open.path.display().to_string());
                    }
                }
                Err(_) => view.problems.push("it is not open in this daemon".into()),
            }
            repositories.push(view);
        }
        Ok(RepositoryList { repositories })
    }
}
