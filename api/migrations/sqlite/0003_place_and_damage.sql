-- `place` orders backups, and a list of them. It is the time at which a backup was made, or one more
-- than the place of what came before it in its machine, so that no clock ever puts a restore point
-- before an older one. Each start sets the places of sealed points by the sequence in their
-- manifests, those of earlier catalogs included.
--
-- `damage` is what is known to be wrong with the files of a restore point, in words.
--
-- `bound_by` is the job whose start bound a disk's number to its device. Nothing of it is sealed
-- yet: where that job ends without a point, the binding goes with it.
ALTER TABLE backup_jobs ADD COLUMN place BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup_jobs ADD COLUMN damage TEXT;
UPDATE backup_jobs SET place = created_at;
DROP INDEX backup_jobs_by_vm;
DROP INDEX backup_jobs_by_status;
DROP INDEX backup_jobs_by_time;
CREATE INDEX backup_jobs_by_vm ON backup_jobs (tenant, vm_id, place, id);
CREATE INDEX backup_jobs_by_status ON backup_jobs (tenant, status, place, id);
CREATE INDEX backup_jobs_by_place ON backup_jobs (tenant, place, id);

ALTER TABLE vm_disks ADD COLUMN bound_by TEXT;
