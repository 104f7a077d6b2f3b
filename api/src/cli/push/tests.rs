use serde_json::json;

use super::*;
use crate::cli::args::{self, Backup as Verb};
use crate::cli::{Cli, Noun};

fn push(line: &str) -> args::Push {
    let words = ["sendense-ctl", "backup", "push", "--vm", "v"];
    let words = words.into_iter().chain(line.split_whitespace());
    let cli = <Cli as clap::Parser>::try_parse_from(words).unwrap();
    match cli.noun {
        Noun::Backup(verb) => match *verb {
            Verb::Push(push) => push,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn usage(line: &str) -> String {
    match look(&push(line)) {
        Ok(_) => panic!("{line} is accepted"),
        Err(e) => {
            assert_eq!(e.code, 64, "{e:?}");
            e.message
        }
    }
}

#[test]
fn mistakes_are_found_before_the_daemon_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    std::fs::write(&disk, [1; 1000]).unwrap();
    let list = dir.path().join("changes.json");
    let at = format!("--disk 0={}", disk.display());
    let changes = format!("--changes 0={}", list.display());

    assert_eq!(look(&push(&at)).unwrap()[0].size, 1000);
    assert!(usage(&format!("{at} {at}")).contains("twice"));
    assert!(usage(&format!("{at} --type incremental")).contains("needs the changed extents"));
    assert!(usage(&format!("{at} --change-id 1=t")).contains("--change-id names disk 1"));
    assert!(usage(&format!("{at} --base 2=t")).contains("--base-change-id names disk 2"));
    std::fs::write(&list, "nonsense").unwrap();
    assert!(usage(&format!("{at} {changes}")).contains("no list of changed extents"));
    for bad in [(999, 2), (0, 0), (u64::MAX, 1)] {
        let one = json!([{ "offset": bad.0, "length": bad.1 }]);
        std::fs::write(&list, one.to_string()).unwrap();
        assert!(usage(&format!("{at} {changes}")).contains("does not lie within"));
    }
    std::fs::write(&list, r#"{"changes":[{"offset":0,"length":1000}]}"#).unwrap();
    assert!(usage(&format!("{at} {changes}")).contains("a full takes no --changes"));
    let found = look(&push(&format!("{at} {changes} --type incremental"))).unwrap();
    assert_eq!(found[0].changes.as_ref().unwrap()[0].length, 1000);
    assert!(look(&push("--disk 0=/no/such/disk")).is_err_and(|e| e.code == 10));
}

fn chains(of: &[(&str, &[&str])]) -> VmChains {
    let chain = |(repository, tokens): &(&str, &[&str])| {
        let point = |(n, token): (usize, &&str)| {
            json!({
                "backup_id": format!("b{n}"), "backup_type": "full", "parent_backup_id": null,
                "sequence": n, "size_bytes": 1, "stored_bytes": 1, "change_id": token,
                "sealed_at": null, "verified_at": null,
            })
        };
        let backups: Vec<_> = tokens.iter().enumerate().map(point).collect();
        json!({ "chain_id": "c", "repository": repository, "current": true, "backups": backups })
    };
    let all: Vec<_> = of.iter().map(chain).collect();
    let disk = json!({
        "disk_id": 0, "full_backup_id": null, "latest_backup_id": null,
        "total_backups": 0, "total_size_bytes": 0, "chains": all,
    });
    serde_json::from_value(json!({ "vm_id": "", "vm_name": "", "disks": [disk] })).unwrap()
}

#[test]
fn the_base_is_filled_in_only_where_the_daemon_made_it() {
    let inc = BackupType::Incremental;
    let diff = BackupType::Differential;
    let ours = chains(&[("local", &["sendense:a", "sendense:b"])]);
    let token = |c, kind| own_token(c, 0, kind, None).unwrap();
    assert_eq!(token(&ours, inc).as_deref(), Some("sendense:b"));
    assert_eq!(token(&ours, diff).as_deref(), Some("sendense:a"));
    assert_eq!(own_token(&ours, 1, inc, None).unwrap(), None);
    assert_eq!(own_token(&ours, 0, inc, Some("other")).unwrap(), None);

    let theirs = chains(&[("local", &["sendense:a", "52 de/7"])]);
    let e = own_token(&theirs, 0, inc, None).unwrap_err();
    assert_eq!(e.code, 64);
    assert!(e.hint.unwrap().contains("--base-change-id 0="));
    assert_eq!(token(&theirs, diff).as_deref(), Some("sendense:a"));

    let two = chains(&[("far", &["sendense:x"]), ("local", &["sendense:y"])]);
    assert_eq!(token(&two, inc).as_deref(), Some("sendense:y"));
    let far = own_token(&two, 0, inc, Some("far")).unwrap();
    assert_eq!(far.as_deref(), Some("sendense:x"));
    assert_eq!(token(&chains(&[]), inc), None);
}
