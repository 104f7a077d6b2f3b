-- Images of other cluster sizes than 64 KiB, which all that were made before have.
ALTER TABLE backup_disks ADD COLUMN cluster_size BIGINT NOT NULL DEFAULT 65536;
