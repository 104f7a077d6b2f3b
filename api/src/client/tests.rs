use serde_json::json;

use super::fake::Fake;
use super::*;
use crate::types::{Code, Complete};

fn problem(code: Code) -> serde_json::Value {
    serde_json::to_value(Problem::new(code, "what happened")).unwrap()
}

fn deletion() -> serde_json::Value {
    json!({ "dry_run": true, "deleted": [], "freed_bytes": 0, "warnings": [] })
}

#[test]
fn a_name_stays_one_segment() {
    assert_eq!(segment("backup-a-1.b"), "backup-a-1.b");
    assert_eq!(segment("a/b ?#%"), "a%2Fb%20%3F%23%25");
    assert_eq!(segment(".."), "%2E%2E");
}

#[test]
fn a_token_is_not_shown() {
    let client = Client::new("http://127.0.0.1:1/", Some("hush".into()));
    assert!(!format!("{client:?}").contains("hush"));
    assert_eq!(client.url(), "http://127.0.0.1:1");
}

#[test]
fn nobody_there_is_told_as_such() {
    let e = Client::new("http://127.0.0.1:1", None)
        .health()
        .unwrap_err();
    assert!(matches!(e, ClientError::NoDaemon { .. }), "{e}");
    assert_eq!(e.exit_code(), 4);
}

#[test]
fn a_request_carries_token_path_query_and_body() {
    let fake = Fake::new(vec![
        ("DELETE /backup/a%2Fb", 200, deletion()),
        ("POST /backup/", 409, problem(Code::WrongState)),
    ]);
    let client = Client::new(&fake.url, Some("secret".into()));
    assert!(client.delete_backup("a/b", true, true).unwrap().dry_run);
    let asked = fake.one("DELETE");
    assert_eq!(
        asked.line,
        "DELETE /backup/a%2Fb?with_dependents=true&dry_run=true"
    );
    assert_eq!(asked.authorization.as_deref(), Some("Bearer secret"));

    let body = Complete::default();
    let e = client
        .complete_backup("id", &body, Duration::from_secs(7))
        .unwrap_err();
    assert_eq!(e.code(), Some(Code::WrongState));
    let asked = fake.one("POST");
    assert_eq!(asked.line, "POST /backup/id/complete?wait=7");
    assert_eq!(asked.body, json!({ "disks": [] }));
}

#[test]
fn latest_is_asked_for_with_its_machine() {
    let fake = Fake::new(vec![("GET", 404, problem(Code::BackupNotFound))]);
    let client = Client::new(&fake.url, None);
    let id = "00000000-0000-4000-8000-000000000001";
    for vm in [Some("web 1"), Some(id), None] {
        assert_eq!(client.backup("latest", vm).unwrap_err().exit_code(), 10);
    }
    let lines: Vec<String> = fake.asked().into_iter().map(|a| a.line).collect();
    assert_eq!(
        lines[0].replace('+', "%20"),
        "GET /backup/latest?vm_name=web%201"
    );
    assert_eq!(lines[1], format!("GET /backup/latest?vm_id={id}"));
    assert_eq!(lines[2], "GET /backup/latest");
}

#[test]
fn a_refusal_brings_code_detail_and_hint() {
    let fake = Fake::new(vec![("GET", 409, problem(Code::Locked))]);
    let e = Client::new(&fake.url, None).jobs(None, None).unwrap_err();
    assert_eq!(e.to_string(), "what happened");
    assert_eq!(e.hint(), Code::Locked.hint());
    assert_eq!(e.exit_code(), 11);
}

#[test]
fn what_is_no_daemon_of_ours_is_told_as_such() {
    for (status, body) in [
        (200, json!({})),
        (502, json!("gateway")),
        (301, json!(null)),
    ] {
        let fake = Fake::new(vec![("GET", status, body)]);
        let e = Client::new(&fake.url, None).health().unwrap_err();
        assert!(matches!(e, ClientError::Broken(_)), "{e}");
        assert_eq!(e.exit_code(), 1);
    }
}

#[test]
fn codes_and_statuses_become_exit_codes() {
    let exit = |code: &str, status| {
        let mut problem = Problem::new(Code::Internal, "");
        (problem.code, problem.status) = (code.to_owned(), status);
        ClientError::Refused(Box::new(problem)).exit_code()
    };
    for (code, expected) in [
        (Code::Unauthenticated, 5),
        (Code::NotFound, 10),
        (Code::VmNotFound, 10),
        (Code::BackupNotFound, 10),
        (Code::RepositoryNotFound, 10),
        (Code::Locked, 11),
        (Code::NotAllowed, 12),
        (Code::Immutable, 13),
        (Code::NoSpace, 14),
        (Code::Damaged, 15),
        (Code::Busy, 16),
        (Code::TooMany, 16),
        (Code::HasDependents, 1),
        (Code::BaseTokenMismatch, 1),
        (Code::Internal, 1),
    ] {
        assert_eq!(exit(code.as_str(), code.status()), expected, "{code}");
    }
    // Codes of a newer daemon.
    for (status, expected) in [
        (401, 5),
        (403, 12),
        (404, 10),
        (423, 11),
        (507, 14),
        (503, 16),
    ] {
        assert_eq!(exit("of_tomorrow", status), expected);
    }
    assert_eq!(exit("of_tomorrow", 409), 1);
}
