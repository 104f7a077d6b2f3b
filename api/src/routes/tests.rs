mod changes;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use sendense_engine::io::IoConfig;
use sendense_engine::plane::{Plane, PlaneConfig};

use crate::auth;
use crate::config::{Config, File, Flags};
use crate::service::OpenRepository;
use crate::store::Store;

/// A service over a repository and a data plane of its own.
async fn service(config: Config, store: Store) -> Service {
    let plane = PlaneConfig {
        threads: 1,
        io: IoConfig::small(),
        ..PlaneConfig::default()
    };
    let plane = Arc::new(Plane::start(plane).unwrap());
    let local = OpenRepository::local("local", &config.local_repository(), None).unwrap();
    let service = Service::new(config, store, plane, vec![local]);
    service.recover().await.unwrap();
    service
}

struct Server {
    _dir: tempfile::TempDir,
    router: Router,
    token: String,
}

impl Server {
    async fn new() -> Self {
        Self::with(File::default()).await
    }

    async fn with(file: File) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(file, Flags::default(), dir.path().to_owned()).unwrap();
        let store = Store::open(&config.catalog()).await.unwrap();
        auth::first_token(&store, &config.admin_token())
            .await
            .unwrap();
        let token = std::fs::read_to_string(config.admin_token()).unwrap();
        Self {
            router: router(service(config, store).await),
            _dir: dir,
            token: token.trim().to_owned(),
        }
    }

    async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").cloned();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let value: Value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{status}: {:?}", String::from_utf8_lossy(&bytes)));
        if status >= 400 {
            assert_eq!(kind.unwrap(), "application/problem+json");
            for member in ["type", "title", "status", "code", "detail", "hint"] {
                assert!(value.get(member).is_some(), "{member} of {value}");
            }
            assert_eq!(value["status"], status);
        }
        (status, value)
    }

    fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", self.token))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let r = self.request(Method::GET, path).body(Body::empty()).unwrap();
        self.send(r).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let r = self
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(r).await
    }
}

#[tokio::test]
async fn only_health_is_open() {
    let server = Server::new().await;
    let open = Request::get("/api/v1/health").body(Body::empty()).unwrap();
    let (status, health) = server.send(open).await;
    assert_eq!(status, 200);
    assert_eq!(health["status"], "ok");
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Basic YTpi"),
        Some("Bearer"),
    ] {
        let mut r = Request::get("/api/v1/vms");
        if let Some(h) = header {
            r = r.header("authorization", h);
        }
        let (status, p) = server.send(r.body(Body::empty()).unwrap()).await;
        assert_eq!((status, p["code"].as_str()), (401, Some("unauthenticated")));
    }
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let server = Server::new().await;
    let post = |ct: &str, body: Body| {
        server
            .request(Method::POST, "/vms")
            .header("content-type", ct)
            .body(body)
            .unwrap()
    };
    let big = Body::from(format!("{{\"name\":\"{}\"}}", "x".repeat(5 << 20)));
    for (request, status, code) in [
        (
            server
                .request(Method::GET, "/nowhere")
                .body(Body::empty())
                .unwrap(),
            404,
            "no_such_route",
        ),
        (
            Request::get("/").body(Body::empty()).unwrap(),
            404,
            "no_such_route",
        ),
        (
            server
                .request(Method::DELETE, "/vms")
                .body(Body::empty())
                .unwrap(),
            405,
            "method_not_allowed",
        ),
        (
            post("text/plain", Body::from("{}")),
            415,
            "unsupported_media_type",
        ),
        (post("application/json", Body::from("{")), 400, "bad_json"),
        (post("application/json", Body::from("{}")), 422, "invalid"),
        (
            post("application/json", Body::from(r#"{"name":"a","x":1}"#)),
            422,
            "invalid",
        ),
        (post("application/json", big), 413, "too_large"),
        (
            server
                .request(Method::GET, "/vms?limit=0")
                .body(Body::empty())
                .unwrap(),
            400,
            "bad_request",
        ),
        (
            server
                .request(Method::GET, "/vms?limit=x")
                .body(Body::empty())
                .unwrap(),
            400,
            "bad_request",
        ),
        (
            server
                .request(Method::GET, "/vms?cursor=x")
                .body(Body::empty())
                .unwrap(),
            400,
            "bad_request",
        ),
        (
            server
                .request(Method::GET, "/vms/none")
                .body(Body::empty())
                .unwrap(),
            404,
            "vm_not_found",
        ),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let (got, p) = server.send(request).await;
        assert_eq!(
            (got, p["code"].as_str()),
            (status, Some(code)),
            "{what}: {p}"
        );
    }
}

#[tokio::test]
async fn vms_are_registered_shown_and_told_apart() {
    let server = Server::new().await;
    let uuid = "11111111-1111-4111-8111-111111111111";
    let web = json!({"name": "web1", "uuid": uuid, "disks": [
        {"disk_id": 1, "size_bytes": 513, "device_key": "2001"},
        {"disk_id": 0, "size_bytes": 1024}]});
    let (status, vm) = server.post("/vms", &web).await;
    assert_eq!(status, 201, "{vm}");
    assert_eq!(vm["vm_id"], uuid);
    assert_eq!(vm["disks"][0]["device_key"], "disk-0");
    assert_eq!(vm["disks"][1]["size_bytes"], 513);
    assert_eq!(server.post("/vms", &web).await.1["code"], "exists");
    assert_eq!(server.get("/vms/web1").await.1["vm_id"], uuid);

    let (status, twin) = server.post("/vms", &json!({"name": "web1"})).await;
    assert_eq!(status, 201);
    let (status, p) = server.get("/vms/web1").await;
    assert_eq!((status, p["code"].as_str()), (409, Some("ambiguous_name")));
    assert_eq!(p["ids"], json!([uuid, twin["vm_id"]]));
    assert_eq!(server.get(&format!("/vms/{uuid}")).await.0, 200);
    assert_eq!(
        server.get("/vms").await.1["vms"].as_array().unwrap().len(),
        2
    );

    for bad in [
        json!({"name": "a", "disks": [{"disk_id": 0, "size_bytes": 0}]}),
        json!({"name": "a", "disks": [{"disk_id": 1000, "size_bytes": 1}]}),
        json!({"name": "a", "disks": [{"disk_id": -1, "size_bytes": 1}]}),
        json!({"name": "a", "disks": [{"disk_id": 0, "size_bytes": 1}, {"disk_id": 0, "size_bytes": 1}]}),
        json!({"name": "a\u{0}b"}),
        json!({"name": "a", "uuid": "x"}),
    ] {
        let (status, p) = server.post("/vms", &bad).await;
        assert_eq!(status, 422, "{bad}: {p}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_start_to_delete_by_its_routes() {
    let server = Server::new().await;
    let body = json!({"vm_name": "db1", "backup_type": "full",
        "disks": [{"disk_id": 0, "size_bytes": 1_048_576, "sparse": true}]});
    let (status, b) = server.post("/backup/start", &body).await;
    assert_eq!(status, 202, "{b}");
    assert_eq!(
        (b["vm_created"].as_bool(), b["status"].as_str()),
        (Some(true), Some("running"))
    );
    let id = b["backup_id"].as_str().unwrap();
    let name = b["disks"][0]["export_name"].as_str().unwrap();
    assert!(name.len() <= 63 && name.starts_with("backup-"), "{name}");

    // Nothing sealed yet: no list, no chain, no export; the job is there.
    assert_eq!(server.get("/backup/list").await.1["backups"], json!([]));
    let (_, all) = server.get("/backup/list?status=running&vm_name=db1").await;
    assert_eq!(all["backups"][0]["backup_id"], id);
    let export = json!({"backup_id": id, "disk_id": 0});
    assert_eq!(
        server.post("/restore/export", &export).await.1["code"],
        "wrong_state"
    );
    assert_eq!(
        server.get(&format!("/jobs/{id}")).await.1["phase"],
        "waiting"
    );
    let delete = server.request(Method::DELETE, &format!("/backup/{id}"));
    let (status, p) = server.send(delete.body(Body::empty()).unwrap()).await;
    assert_eq!((status, p["code"].as_str()), (409, Some("wrong_state")));

    // A sparse full of nothing is a disk of zeroes.
    let (status, done) = server
        .post(&format!("/backup/{id}/complete?wait=30"), &json!({}))
        .await;
    assert_eq!(
        (status, done["status"].as_str()),
        (200, Some("completed")),
        "{done}"
    );
    assert_eq!(done["disks"][0]["change_id"], format!("sendense:{id}"));
    let (_, chain) = server.get("/backup/chain?vm_name=db1").await;
    assert_eq!(chain["disks"][0]["latest_backup_id"], id);
    assert_eq!(chain["disks"][0]["chains"][0]["current"], true);
    let (status, export) = server.post("/restore/export", &export).await;
    assert_eq!(
        (status, export["size_bytes"].as_u64()),
        (201, Some(1 << 20))
    );
    assert_eq!(
        server.get("/backup/latest?vm_name=db1").await.1["backup_id"],
        id
    );
    assert_eq!(
        server.get("/repositories").await.1["repositories"][0]["backup_count"],
        1
    );

    // The export holds its point, idle as it is, until it is ended.
    let delete = async |path: &str| {
        let request = server.request(Method::DELETE, path);
        server.send(request.body(Body::empty()).unwrap()).await
    };
    let path = format!("/backup/{id}?dry_run=false");
    let (status, busy) = delete(&path).await;
    assert_eq!((status, busy["code"].as_str()), (409, Some("busy")));
    let export_id = export["export_id"].as_str().unwrap();
    let (status, _) = delete(&format!("/restore/export/{export_id}")).await;
    assert!(status < 300, "{status}");
    let (status, gone) = delete(&path).await;
    assert_eq!(
        (status, gone["deleted"][0]["backup_id"].as_str()),
        (200, Some(id)),
        "{gone}"
    );
    assert_eq!(server.get(&format!("/backup/{id}")).await.0, 404);
    assert_eq!(server.get("/restore/exports").await.1["exports"], json!([]));
}
