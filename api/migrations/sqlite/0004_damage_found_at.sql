-- When a verification found the damage; NULL where a start did. What a verification found stays known
-- until a newer one finds the point whole, also where its note in the repository was lost.
ALTER TABLE backup_jobs ADD COLUMN damage_found_at BIGINT;
