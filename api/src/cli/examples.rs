//! The examples of the help texts: lines that work when they are pasted.

pub(super) const START: &str = "Examples:
  sendense-ctl backup start --vm pgtest2 --type full
  sendense-ctl backup start --vm pgtest2 --type full --disk 0,size=40G,device-key=2000
  sendense-ctl backup start --vm pgtest2 --type incremental --disk 0,base=TOKEN --changes 0=changes.json";

pub(super) const PUSH: &str = "Examples:
  sendense-ctl backup push --vm web1 --disk 0=./disk.img
  sendense-ctl backup push --vm web1 --disk 0=./disk.img --type incremental --changes 0=changes.json
  sendense-ctl backup push --vm web1 --disk 0=/dev/vg0/web1 --change-id 0=snap-7";

pub(super) const LIST: &str = "Examples:
  sendense-ctl backup list --vm pgtest2
  sendense-ctl backup list --status all --json";

pub(super) const COMPLETE: &str = "Examples:
  sendense-ctl backup complete --backup-id ID
  sendense-ctl backup complete ID --disk 0=TOKEN --disk 1";

pub(super) const DELETE: &str = "Examples:
  sendense-ctl backup delete --backup-id ID --dry-run
  sendense-ctl backup delete --backup-id ID --with-dependents --yes";

pub(super) const RESTORE: &str = "Examples:
  sendense-ctl backup restore --backup-id ID --disk 0 --to disk.raw
  sendense-ctl backup restore --backup-id latest --vm web1 --disk 0 --to /dev/vg0/web1 --force
  sendense-ctl backup restore --backup-id ID --disk 0 --target file:/restores/web1.qcow2 --as qcow2";

pub(super) const EXPORT: &str = r#"Examples:
  sendense-ctl backup export --backup-id ID --disk 0
  nbdcopy "$(sendense-ctl backup export latest --vm web1 --json | jq -r .nbd_uris[0])" disk.raw"#;

pub(super) const VERIFY: &str = "Examples:
  sendense-ctl backup verify --backup-id latest --vm web1";
