use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<NbdUri, UriError> {
    text.parse()
}

#[test]
fn the_examples_of_the_specification() {
    for (text, export) in [
        ("nbd://example.com:10809/disk", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
        ("NBD://example.com/a%2fb", "a/b"),
    ] {
        let uri = parse(text).unwrap();
        assert_eq!(uri, NbdUri::tcp("example.com", 10809, export), "{text}");
    }
    let uri = parse("nbd+unix:///disk?socket=nbd.sock").unwrap();
    assert_eq!(uri, NbdUri::unix("nbd.sock", "disk"));
    assert_eq!(uri.socket(), Some(Path::new("nbd.sock")));
    assert_eq!(
        parse("nbds+unix:///?socket=/run/a%20b&tls-certificates=/etc/pki/x&tls-hostname=h")
            .unwrap(),
        NbdUri {
            tls_hostname: Some("h".into()),
            ..NbdUri::unix("/run/a b", "").with_tls(Some("/etc/pki/x".into()))
        }
    );
}

#[test]
fn hosts_and_ports() {
    let tcp = |text: &str| parse(text).map(|u| u.address);
    let is = |host: &str, port| {
        Ok(NbdAddress::Tcp {
            host: host.into(),
            port,
        })
    };
    assert_eq!(tcp("nbd://[::1]:5/x"), is("::1", 5));
    assert_eq!(tcp("nbds://[fe80::1%25eth0]/x"), is("fe80::1%eth0", 10809));
    assert_eq!(tcp("nbd://127.0.0.1:/x"), is("127.0.0.1", 10809));
    for wrong in [
        "nbd:///x",
        "nbd://:5/x",
        "nbd://[::1/x",
        "nbd://[::1]5/x",
        "nbd://::1/x",
        "nbd://h:65536/x",
        "nbd://h:+5/x",
        "nbd://user@h/x",
        "nbd://a%00b/x",
    ] {
        assert!(
            matches!(tcp(wrong), Err(UriError::Authority(_))),
            "{wrong}: {:?}",
            tcp(wrong)
        );
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (text, says) in [
        ("http://h/x", "scheme"),
        ("nbd:unix:/sock", "scheme"),
        ("nbd+unix:///x", "socket=PATH"),
        ("nbd+unix://host/x?socket=/s", "no host"),
        ("nbd://h/x?socket=/s", "belongs to nbd+unix"),
        ("nbd+unix:///x?socket=", "empty"),
        ("nbd+unix:///x?socket=%00abstract", "abstract"),
        ("nbd+unix:///x?socket=/a&socket=/b", "twice"),
        ("nbd://h/x?tls-certificates=/d", "needs an nbds scheme"),
        ("nbds://h/x?tls-verify-peer=0", "always verified"),
        ("nbds://h/x?tls-psk-file=/p", "x509 only"),
        ("nbds://h/x?tls-type=anon", "only be x509"),
        (
            "nbds://h/x?tls-priority=NORMAL",
            "`tls-priority` is not known",
        ),
        ("nbd://h/x?x-y=1", "`x-y` is not known"),
        ("nbd://h/%zz", "hexadecimal"),
        ("nbd://h/%f", "hexadecimal"),
        ("nbd://h/%ff", "UTF-8"),
        ("nbd://h/a%00b", "NUL"),
        ("nbd://h/a b", "space"),
        ("nbd://h/a#b", "%23"),
        (&format!("nbd://h/{}", "x".repeat(4097)), "4096"),
    ] {
        let e = parse(text).unwrap_err();
        assert!(e.to_string().contains(says), "{text}: {e}");
        assert!(!e.hint().is_empty());
    }
    assert!(parse("nbds://h/x?tls-verify-peer=1&tls-type=x509").is_ok());
}

#[test]
fn a_printed_uri_reads_the_same_and_a_logged_one_hides_the_name() {
    let uri = NbdUri::unix("/run/a&b?c#d.sock", "backup-x-disk0-full?#%/ü");
    assert_eq!(parse(&uri.to_string()).unwrap(), uri);
    assert!(!format!("{uri:?}").contains("backup"));
    let uri = NbdUri::tcp("::1", 10809, "x").with_tls(None);
    assert_eq!(uri.to_string(), "nbds://[::1]/x");
}

proptest! {
    #[test]
    fn display_and_parse_are_inverse(
        host in "[a-z0-9][a-z0-9.-]{0,20}|::1|fe80::1%eth0",
        port in any::<u16>(),
        export in "[^\\x00]{0,40}",
        socket in prop::option::of(prop::collection::vec(1u8..=255, 1..30)),
        tls in any::<bool>(),
        certificates in prop::option::of("/[a-z &?#%=ü]{0,20}"),
        hostname in prop::option::of("[a-z.]{1,10}"),
    ) {
        use std::os::unix::ffi::OsStringExt;
        let mut uri = match socket {
            Some(bytes) => NbdUri::unix(std::ffi::OsString::from_vec(bytes), export),
            None => NbdUri::tcp(host, port, export),
        };
        if tls {
            uri = uri.with_tls(certificates.map(Into::into));
            uri.tls_hostname = hostname;
        }
        let text = uri.to_string();
        prop_assert!(text.is_ascii());
        prop_assert_eq!(parse(&text).unwrap(), uri);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(nbds?(\\+unix)?://)?[ -~]{0,60}|\\PC{0,40}") {
        if let Ok(uri) = parse(&text) {
            prop_assert_eq!(parse(&uri.to_string()).unwrap(), uri);
        }
    }
}
