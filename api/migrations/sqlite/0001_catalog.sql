-- The catalog. Columns are TEXT, BIGINT and BLOB only; times are microseconds UTC; a yes or no is
-- BIGINT 0 or 1. Every key begins with the tenant. Parents are RESTRICT: no row that another one
-- builds on ever goes away.

CREATE TABLE vms (
    tenant      TEXT   NOT NULL,
    id          TEXT   NOT NULL,
    context_id  TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, context_id)
);
CREATE INDEX vms_by_name ON vms (tenant, name);
CREATE INDEX vms_by_time ON vms (tenant, created_at, id);

CREATE TABLE vm_disks (
    tenant      TEXT   NOT NULL,
    vm_id       TEXT   NOT NULL,
    disk_id     BIGINT NOT NULL,
    device_key  TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL,
    source      TEXT   NOT NULL,
    PRIMARY KEY (tenant, vm_id, disk_id),
    UNIQUE (tenant, vm_id, device_key),
    FOREIGN KEY (tenant, vm_id) REFERENCES vms (tenant, id) ON DELETE RESTRICT
);

CREATE TABLE backup_repositories (
    tenant               TEXT   NOT NULL,
    id                   TEXT   NOT NULL,
    name                 TEXT   NOT NULL,
    repository_type      TEXT   NOT NULL,
    config               TEXT   NOT NULL,
    enabled              BIGINT NOT NULL,
    total_size_bytes     BIGINT NOT NULL,
    available_size_bytes BIGINT NOT NULL,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
);
CREATE INDEX backup_repositories_by_type ON backup_repositories (tenant, repository_type);

CREATE TABLE backup_jobs (
    tenant           TEXT   NOT NULL,
    id               TEXT   NOT NULL,
    vm_id            TEXT   NOT NULL,
    vm_name          TEXT   NOT NULL,
    repository_id    TEXT   NOT NULL,
    requested_type   TEXT   NOT NULL,
    backup_type      TEXT   NOT NULL,
    reason           TEXT   NOT NULL,
    status           TEXT   NOT NULL,
    phase            TEXT,
    parent_backup_id TEXT,
    error_code       TEXT,
    error_message    TEXT,
    missing          BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    completed_at     BIGINT,
    sealed_at        BIGINT,
    verified_at      BIGINT,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, vm_id) REFERENCES vms (tenant, id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, repository_id) REFERENCES backup_repositories (tenant, id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, parent_backup_id) REFERENCES backup_jobs (tenant, id) ON DELETE RESTRICT
);
CREATE INDEX backup_jobs_by_vm ON backup_jobs (tenant, vm_id, created_at, id);
CREATE INDEX backup_jobs_by_status ON backup_jobs (tenant, status, created_at, id);
CREATE INDEX backup_jobs_by_time ON backup_jobs (tenant, created_at, id);
CREATE INDEX backup_jobs_by_parent ON backup_jobs (tenant, parent_backup_id);

CREATE TABLE backup_disks (
    tenant             TEXT   NOT NULL,
    backup_id          TEXT   NOT NULL,
    disk_id            BIGINT NOT NULL,
    device_key         TEXT   NOT NULL,
    backup_type        TEXT   NOT NULL,
    source             TEXT   NOT NULL,
    parent_backup_id   TEXT,
    sequence           BIGINT,
    size_bytes         BIGINT NOT NULL,
    base_change_id     TEXT,
    change_id          TEXT,
    bytes_transferred  BIGINT NOT NULL,
    stored_bytes       BIGINT NOT NULL,
    zero_bytes         BIGINT NOT NULL,
    covered_bytes      BIGINT NOT NULL,
    checksum           TEXT,
    locator            TEXT,
    export_name        TEXT,
    export_secret_hash TEXT,
    sealed_at          BIGINT,
    verified_at        BIGINT,
    PRIMARY KEY (tenant, backup_id, disk_id),
    FOREIGN KEY (tenant, backup_id) REFERENCES backup_jobs (tenant, id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, parent_backup_id, disk_id)
        REFERENCES backup_disks (tenant, backup_id, disk_id) ON DELETE RESTRICT
);
CREATE INDEX backup_disks_by_parent ON backup_disks (tenant, parent_backup_id, disk_id);

-- A chain is one full of one disk and all that builds on it. `current` marks, per disk and
-- repository, the one whose head the next incremental builds on.
CREATE TABLE backup_chains (
    tenant           TEXT   NOT NULL,
    id               TEXT   NOT NULL,
    vm_id            TEXT   NOT NULL,
    disk_id          BIGINT NOT NULL,
    repository_id    TEXT   NOT NULL,
    full_backup_id   TEXT   NOT NULL,
    latest_backup_id TEXT   NOT NULL,
    total_backups    BIGINT NOT NULL,
    total_size_bytes BIGINT NOT NULL,
    current          BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, vm_id, disk_id, repository_id, full_backup_id),
    FOREIGN KEY (tenant, vm_id, disk_id) REFERENCES vm_disks (tenant, vm_id, disk_id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, repository_id) REFERENCES backup_repositories (tenant, id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, full_backup_id, disk_id)
        REFERENCES backup_disks (tenant, backup_id, disk_id) ON DELETE RESTRICT,
    FOREIGN KEY (tenant, latest_backup_id, disk_id)
        REFERENCES backup_disks (tenant, backup_id, disk_id) ON DELETE RESTRICT
);
CREATE UNIQUE INDEX backup_chains_current
    ON backup_chains (tenant, vm_id, disk_id, repository_id) WHERE current = 1;

-- Jobs that make no restore point: restores and verifications.
CREATE TABLE tasks (
    tenant            TEXT   NOT NULL,
    id                TEXT   NOT NULL,
    kind              TEXT   NOT NULL,
    backup_id         TEXT   NOT NULL,
    vm_name           TEXT   NOT NULL,
    disk_id           BIGINT,
    target            TEXT,
    status            TEXT   NOT NULL,
    phase             TEXT,
    total_bytes       BIGINT NOT NULL,
    bytes_transferred BIGINT NOT NULL,
    error_code        TEXT,
    error_message     TEXT,
    created_at        BIGINT NOT NULL,
    started_at        BIGINT,
    completed_at      BIGINT,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX tasks_by_time ON tasks (tenant, created_at, id);
CREATE INDEX tasks_by_status ON tasks (tenant, status);

CREATE TABLE tokens (
    tenant       TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    role         TEXT   NOT NULL,
    hash         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    PRIMARY KEY (tenant, id),
    UNIQUE (hash)
);

CREATE TABLE audit (
    tenant   TEXT   NOT NULL,
    id       TEXT   NOT NULL,
    at       BIGINT NOT NULL,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    object   TEXT   NOT NULL,
    detail   TEXT   NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX audit_by_time ON audit (tenant, at, id);
