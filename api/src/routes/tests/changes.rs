//! Change lists, in bodies that come in pieces, break off, or are too much.

use axum::body::Bytes;
use futures_util::stream;

use super::*;

const DISK: u64 = 16 << 30;

/// A running incremental of one disk, with nothing said about what changed.
async fn incremental(server: &Server) -> String {
    let disk = |base: Value| json!([{"disk_id": 0, "size_bytes": DISK, "sparse": true, "base_change_id": base}]);
    let start = json!({"vm_name": "db1", "backup_type": "full", "disks": disk(Value::Null)});
    let (status, b) = server.post("/backup/start", &start).await;
    assert_eq!(status, 202, "{b}");
    let id = b["backup_id"].as_str().unwrap();
    let complete = format!("/backup/{id}/complete?wait=30");
    let (status, done) = server.post(&complete, &json!({})).await;
    assert_eq!(status, 200, "{done}");
    let base = done["disks"][0]["change_id"].clone();
    let start = json!({"vm_name": "db1", "backup_type": "incremental",
        "disks": [{"disk_id": 0, "base_change_id": base}]});
    let (status, b) = server.post("/backup/start", &start).await;
    assert_eq!(status, 202, "{b}");
    b["backup_id"].as_str().unwrap().to_owned()
}

/// The bytes that the job waits for.
async fn wanted(server: &Server, id: &str) -> Value {
    let (status, job) = server.get(&format!("/jobs/{id}")).await;
    assert_eq!(status, 200, "{job}");
    job["disks"][0]["total_bytes"].clone()
}

async fn put(
    server: &Server,
    id: &str,
    pieces: impl Iterator<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> (u16, Value) {
    let request = server
        .request(Method::PUT, &format!("/backup/{id}/disks/0/changes"))
        .body(Body::from_stream(stream::iter(pieces)))
        .unwrap();
    server.send(request).await
}

/// `count` extents as a list, in pieces of a thousand of them.
fn many(
    count: u64,
    extent: fn(u64) -> String,
) -> impl Iterator<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    let piece = move |from: u64| {
        let all = (from..count.min(from + 1000)).map(|n| {
            let before = if n == 0 { '[' } else { ',' };
            format!("{before}{}", extent(n))
        });
        Ok(Bytes::from(all.collect::<String>()))
    };
    (0..count)
        .step_by(1000)
        .map(piece)
        .chain([Ok(Bytes::from_static(b"]"))])
}

fn piece(text: &'static str) -> Result<Bytes, std::io::Error> {
    Ok(Bytes::from_static(text.as_bytes()))
}

fn broken() -> Result<Bytes, std::io::Error> {
    Err(std::io::ErrorKind::ConnectionReset.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_counts_only_once_all_of_it_came() {
    let server = Server::new().await;
    let id = incremental(&server).await;
    let cut = [
        r#"[{"offset": 0, "len"#,
        r#"gth": 512}"#,
        ", ",
        r#"{"offset":4096,"length":1024}"#,
        "]",
    ];
    let (status, b) = put(&server, &id, cut.into_iter().map(piece)).await;
    assert_eq!(status, 200, "{b}");
    assert_eq!(wanted(&server, &id).await, 1536);

    let other = [
        piece(r#"[{"offset":0,"length":4096}"#),
        piece("]"),
        piece(" "),
    ];
    for n in 0..=other.len() {
        let pieces = other
            .iter()
            .take(n)
            .map(|p| Ok(p.as_ref().unwrap().clone()));
        let pieces: Vec<_> = pieces.chain([broken()]).collect();
        let (status, p) = put(&server, &id, pieces.into_iter()).await;
        assert_eq!(
            (status, &p["code"]),
            (400, &json!("bad_request")),
            "{n}: {p}"
        );
        assert_eq!(wanted(&server, &id).await, 1536, "{n}");
    }
    for wrong in ["", "[", r#"[{"offset":0,"length":4096}"#, "[]]"] {
        // More than the channel holds comes behind it, and is taken.
        let pieces = [piece(wrong)]
            .into_iter()
            .chain((0..50).map(|_| piece(" ")));
        let (status, p) = put(&server, &id, pieces).await;
        assert_eq!(
            (status, &p["code"]),
            (422, &json!("invalid")),
            "{wrong}: {p}"
        );
        assert_eq!(wanted(&server, &id).await, 1536, "{wrong}");
    }
    let (status, p) = put(&server, "none", (0..50).map(|_| piece(" "))).await;
    assert_eq!(
        (status, &p["code"]),
        (404, &json!("backup_not_found")),
        "{p}"
    );

    let whole = other.map(|p| Ok(p.unwrap()));
    let (status, b) = put(&server, &id, whole.into_iter()).await;
    assert_eq!(status, 200, "{b}");
    assert_eq!(wanted(&server, &id).await, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_million_extents_are_taken_and_more_than_the_limit_are_refused_by_its_name() {
    let server = Server::new().await;
    let id = incremental(&server).await;
    let apart = |n| format!(r#"{{"offset":{},"length":512}}"#, n * 4096);
    let (status, b) = put(&server, &id, many(3_000_000, apart)).await;
    assert_eq!(status, 200, "{b}");
    assert_eq!(wanted(&server, &id).await, 3_000_000_u64 * 512);

    let one = |_| r#"{"offset":0,"length":1}"#.to_owned();
    let (status, p) = put(&server, &id, many((4 << 20) + 1, one)).await;
    assert_eq!((status, &p["code"]), (413, &json!("too_large")), "{p}");
    assert!(
        p["detail"].as_str().unwrap().contains("4194304 extents"),
        "{p}"
    );
    assert!(p["hint"].as_str().unwrap().contains("fewer"), "{p}");
    assert_eq!(wanted(&server, &id).await, 3_000_000_u64 * 512);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_goes_on_is_refused_at_the_limit_of_bytes() {
    let mut file = File::default();
    file.limits.changes_bytes = 1 << 20;
    let server = Server::with(file).await;
    let id = incremental(&server).await;
    let blank = || Ok(Bytes::from(vec![b' '; 1 << 10]));
    // Endless: only a limit that is held while it comes ends it.
    let (status, p) = put(&server, &id, std::iter::repeat_with(blank)).await;
    assert_eq!((status, &p["code"]), (413, &json!("too_large")), "{p}");
    assert!(
        p["detail"].as_str().unwrap().contains("1048576 bytes"),
        "{p}"
    );
    let endless = [piece("[}")]
        .into_iter()
        .chain(std::iter::repeat_with(blank));
    let (status, p) = put(&server, &id, endless).await;
    assert_eq!((status, &p["code"]), (422, &json!("invalid")), "{p}");
}
