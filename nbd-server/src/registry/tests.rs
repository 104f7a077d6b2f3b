use super::*;

fn peer(name: &str) -> Peer {
    Peer {
        certificate_names: vec![name.to_owned()],
        tls: true,
        address: None,
    }
}

#[test]
fn a_full_export_refuses_at_once_and_frees_its_slot() {
    let registry = Registry::new();
    let entry = Entry {
        max_connections: Some(1),
        ..Entry::new(7)
    };
    registry.declare("a", entry).unwrap();
    let (value, guard) = registry.connect("a", &Peer::default()).unwrap();
    assert_eq!(value, 7);
    let refused = registry.connect("a", &Peer::default()).unwrap_err();
    assert!(matches!(&refused, Refused::Policy(reason) if reason.contains("all of its 1")));
    assert_eq!(registry.peek("a", &Peer::default()), Err(refused));
    drop(guard);
    assert!(registry.connect("a", &Peer::default()).is_ok());
}

#[tokio::test]
async fn removal_safe_drain_hard() {
    let registry = Registry::new();
    registry.declare("a", Entry::new(())).unwrap();
    let ((), guard) = registry.connect("a", &Peer::default()).unwrap();
    let safe = registry.remove("a", Removal::Safe).unwrap_err();
    assert_eq!(safe, RemoveError::InUse { connections: 1 });
    let removed = registry.remove("a", Removal::Drain).unwrap();
    assert!(matches!(
        registry.peek("a", &Peer::default()),
        Err(Refused::Shutdown(_))
    ));
    assert!(registry.list()[0].draining);
    let again = registry.declare("a", Entry::new(())).unwrap_err();
    assert_eq!(again, DeclareError::Draining { connections: 1 });
    assert!(!guard.is_cut());
    assert_eq!(registry.cut_draining("a"), 1);
    guard.closed().await;
    drop(guard);
    removed.gone().await;
    assert!(registry.list().is_empty());

    registry.declare("a", Entry::new(())).unwrap();
    let ((), guard) = registry.connect("a", &Peer::default()).unwrap();
    let closed = guard.closed();
    assert_eq!(
        registry.remove("a", Removal::Hard).unwrap().connections(),
        1
    );
    closed.await;
    assert!(guard.is_cut());
    assert_eq!(
        registry.remove("a", Removal::Safe).unwrap_err(),
        RemoveError::Unknown
    );
}

#[test]
fn names_rules_and_listing() {
    let registry = Registry::new();
    registry.declare("open", Entry::new(0)).unwrap();
    registry
        .declare(
            "secret",
            Entry {
                listed: false,
                ..Entry::new(1)
            },
        )
        .unwrap();
    let subjects = Some(vec!["agent.example".to_owned()]);
    registry
        .declare(
            "ruled",
            Entry {
                subjects,
                ..Entry::new(2)
            },
        )
        .unwrap();
    assert_eq!(
        registry.declare("open", Entry::new(3)),
        Err(DeclareError::Exists)
    );
    assert!(registry.declare("a\0b", Entry::new(3)).is_err());
    assert!(registry.declare(&"x".repeat(4097), Entry::new(3)).is_err());
    let names = |peer: &Peer| -> Vec<String> {
        registry
            .listed(peer)
            .into_iter()
            .map(|line| line.name)
            .collect()
    };
    assert_eq!(names(&Peer::default()), ["open"]);
    assert_eq!(names(&peer("agent.example")), ["open", "ruled"]);
    assert!(matches!(
        registry.connect("ruled", &peer("other")),
        Err(Refused::Unknown)
    ));
    assert!(registry.connect("secret", &Peer::default()).is_ok());
    assert_eq!(reserved_prefix("backup-x"), Some("backup-"));
    assert_eq!(reserved_prefix("migration-x"), None);
}

#[test]
fn an_export_for_tls_only_is_refused_and_not_shown_without() {
    let registry = Registry::new();
    let entry = Entry {
        require_tls: true,
        ..Entry::new(1)
    };
    registry.declare("a", entry).unwrap();
    let (plain, tls) = (
        Peer::default(),
        Peer {
            tls: true,
            ..Peer::default()
        },
    );
    let refused = registry.connect("a", &plain).unwrap_err();
    assert!(matches!(refused, Refused::Policy(reason) if reason.contains("TLS")));
    assert!(registry.listed(&plain).is_empty());
    assert_eq!(registry.listed(&tls).len(), 1);
    registry.connect("a", &tls).unwrap();
}
