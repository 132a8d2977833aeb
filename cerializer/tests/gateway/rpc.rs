//! Methods of the schema over HTTP: what is refused before a node is asked. What nodes answer is tested with real ones,
//! in `scripts/tests/rest`; the cluster here does not speak capnp-rpc.

use serde_json::{Value, json};

use crate::process::Gateway;

async fn refused(gateway: &Gateway, target: &str, body: &str) -> (u16, String, String) {
    let headers = [("Content-Type", "application/json")];
    let answer = gateway
        .send("POST", &format!("/v1/rpc/{target}"), &headers, body.as_bytes())
        .await;
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_string();
    (answer.status, answer.errno(), detail)
}

#[tokio::test]
async fn what_is_not_in_the_schema_is_not_found() {
    // Goal: the answer names what there is. Method: a wrong interface and a wrong method.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let (status, errno, detail) = refused(&gateway, "KeyVal/get", "{}").await;
    assert_eq!((status, errno.as_str()), (404, "ENOENT"));
    assert!(detail.contains("KeyValue"), "{detail}");
    let (status, _, detail) = refused(&gateway, "KeyValue/put", "{}").await;
    assert_eq!(status, 404);
    assert!(detail.contains("getMany"), "{detail}");
    let get = gateway.get("/v1/rpc/KeyValue/get").await;
    assert_eq!(get.status, 405);
}

#[tokio::test]
async fn capabilities_are_refused_with_the_way_round() {
    // Goal: nothing is done whose answer could not be given. Method: methods that take or answer them only.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    for (target, expected) in [
        ("Bark/login", "KeyValue"),
        ("Session/restrict", "KeyValue"),
        ("FileSystem/walk", "?path="),
        ("Node/open?path=/", "?path="),
        ("Node/rename?path=/", "/v1/meta"),
        ("Node/link?path=/", "/v1/meta"),
    ] {
        let (status, errno, detail) = refused(&gateway, target, "{}").await;
        assert_eq!((status, errno.as_str()), (501, "EOPNOTSUPP"), "{target}");
        assert!(detail.contains(expected), "{target}: {detail}");
    }
}

#[tokio::test]
async fn arguments_that_are_not_what_the_schema_says_are_refused() {
    // Goal: a clear 400 that names the place, whatever comes. Method: malformed JSON, wrong types, too deep, too large.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let deep = format!("{}{}", "{\"condition\":".repeat(5000), "}".repeat(5000));
    let arrays = format!("{{\"keys\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"key\":\"{}\"}}", "A".repeat(9 << 20));
    for (target, body, status, expected) in [
        ("KeyValue/get", "{", 400, "not JSON"),
        ("KeyValue/get", "", 400, "not JSON"),
        ("KeyValue/get", "[]", 400, "object"),
        ("KeyValue/get", "{} {}", 400, "not JSON"),
        ("KeyValue/get", "{\"key\": \"\u{fffd}\"}", 400, "base64"),
        ("KeyValue/get", "{\"kye\": \"\"}", 400, "kye"),
        (
            "KeyValue/increment",
            "{\"by\": 9223372036854775808}",
            400,
            "64 bits",
        ),
        ("KeyValue/set", "{\"ttlMs\": \"1e3\"}", 400, "ttlMs"),
        ("KeyValue/set", deep.as_str(), 400, "recursion"),
        ("KeyValue/exists", arrays.as_str(), 400, "recursion"),
        ("KeyValue/get", large.as_str(), 413, "larger"),
        ("KeyValue/get?path=/a", "{}", 400, "path"),
        ("Node/stat", "{}", 400, "path"),
        ("Node/stat?path=/&pth=/", "{}", 400, "pth"),
    ] {
        let (found, _, detail) = refused(&gateway, target, body).await;
        assert_eq!(found, status, "{target}: {detail}");
        assert!(detail.contains(expected), "{target}: {detail}");
    }
    let text = gateway.send("POST", "/v1/rpc/KeyValue/get", &[], b"{}").await;
    assert_eq!(text.status, 415);
}

#[tokio::test]
async fn a_node_that_does_not_speak_is_a_problem_not_a_hang() {
    // Goal: the route answers when no node gives a session. Method: the fake, which hangs up on capnp-rpc.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let answer: Value = gateway
        .send_json("POST", "/v1/rpc/KeyValue/get", json!({"key": "YQ=="}))
        .await
        .json();
    assert_eq!(
        (&answer["status"], &answer["errno"]),
        (&json!(503), &json!("EAGAIN"))
    );
}
