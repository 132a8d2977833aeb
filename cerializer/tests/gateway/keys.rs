//! `/v1/keys`.

use serde_json::json;

use crate::fake;
use crate::process::Gateway;

#[tokio::test]
async fn keys_are_set_read_and_removed() {
    // Goal: bytes as bytes and as JSON, under any key. Method: keys that URLs make hard.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    for key in ["plain", "with/slash", "%00%ff%20", "a%2Fb", "x/incr"] {
        let target = format!("/v1/keys/{key}");
        let set = gateway.send("PUT", &target, &[], b"\xff\x00value").await;
        assert_eq!(set.status, 204, "{key}");
        let read = gateway.get(&target).await;
        assert_eq!(
            (read.status, read.body.as_slice()),
            (200, b"\xff\x00value".as_slice()),
            "{key}"
        );
        assert_eq!(read.header("etag"), set.header("etag"));
        let described = gateway
            .send("GET", &target, &[("Accept", "application/json")], b"")
            .await
            .json();
        assert_eq!(
            (&described["value"], &described["expires"]),
            (&json!("/wB2YWx1ZQ=="), &json!({"never": null}))
        );
        assert_eq!(gateway.send("DELETE", &target, &[], b"").await.status, 204);
        let gone = gateway.get(&target).await;
        assert_eq!((gone.status, gone.errno().as_str()), (404, "ENOENT"));
        assert!(gone.json()["key"].is_string());
        assert_eq!(gateway.send("DELETE", &target, &[], b"").await.status, 404);
    }
}

#[tokio::test]
async fn keys_change_only_on_their_conditions() {
    // Goal: compare and set over HTTP. Method: each precondition held and not held.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let put = async |header, value: &str, body: &[u8]| {
        gateway.send("PUT", "/v1/keys/k", &[(header, value)], body).await
    };
    assert_eq!(put("If-Match", "*", b"0").await.status, 412);
    let first = put("If-None-Match", "*", b"1").await;
    assert_eq!(first.status, 204);
    assert_eq!(put("If-None-Match", "*", b"2").await.status, 412);
    let second = put("If-Match", first.header("etag"), b"3").await;
    assert_eq!(second.status, 204);
    assert_eq!(put("If-Match", first.header("etag"), b"4").await.status, 412);
    let fresh = gateway
        .send(
            "GET",
            "/v1/keys/k",
            &[("If-None-Match", second.header("etag"))],
            b"",
        )
        .await;
    assert_eq!(fresh.status, 304);
    assert_eq!(gateway.get("/v1/keys/k").await.body, b"3");
    assert_eq!(put("If-Match", "\"1\", \"2\"", b"5").await.status, 400);
}

#[tokio::test]
async fn numbers_are_added_to() {
    // Goal: increments, whose sums are strings as 64-bit integers are. Method: up, down, and a value that is none.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    for (target, expected) in [("n/incr", "1"), ("n/incr?by=41", "42"), ("n/incr?by=-50", "-8")] {
        let sum = gateway
            .send("POST", &format!("/v1/keys/{target}"), &[], b"")
            .await;
        assert_eq!((sum.status, &sum.json()["value"]), (200, &json!(expected)));
    }
    gateway.send("PUT", "/v1/keys/text", &[], b"text").await;
    assert_eq!(
        gateway.send("POST", "/v1/keys/text/incr", &[], b"").await.status,
        409
    );
    assert_eq!(
        gateway
            .send("POST", "/v1/keys/n/incr?by=much", &[], b"")
            .await
            .json()["field"],
        "by"
    );
    assert_eq!(gateway.send("POST", "/v1/keys/n", &[], b"").await.status, 405);
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    // Goal: pages join. Method: thirty keys of a prefix, pages of seven, others beside; one partition, because each
    // of the fake's answers a scan with all keys.
    let (gateway, _cluster) = Gateway::with_partitions(1).await;
    for number in 0..30 {
        gateway
            .send("PUT", &format!("/v1/keys/user%20{number:02}"), &[], b"v")
            .await;
    }
    gateway.send("PUT", "/v1/keys/zebra", &[], b"v").await;
    let mut listed = Vec::new();
    let mut next = json!("/v1/keys?prefix=user+&limit=7");
    while let Some(target) = next.as_str() {
        let page = gateway.get(target).await.json();
        let keys = page["keys"].as_array().unwrap();
        listed.extend(keys.iter().map(|key| key["key"].as_str().unwrap().to_string()));
        next = page["next"].clone();
    }
    let expected: Vec<String> = (0..30).map(|number| format!("user {number:02}")).collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn values_go_up_to_the_limit_of_the_cluster() {
    // Goal: large values pass, larger ones are a clear 413 before they are collected. Method: the limit, a byte more
    // with its size announced and without, and JSON of a value that would take too much memory.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let value = vec![7; fake::VALUE_SIZE_MAX];
    assert_eq!(
        gateway.send("PUT", "/v1/keys/large", &[], &value).await.status,
        204
    );
    let read = gateway.get("/v1/keys/large").await;
    assert_eq!(read.header("content-length"), value.len().to_string());
    assert!(read.body == value);
    let larger = [value.as_slice(), b"x"].concat();
    let refused = gateway.send("PUT", "/v1/keys/larger", &[], &larger).await;
    assert_eq!((refused.status, refused.errno().as_str()), (413, "EFBIG"));
    let chunked = gateway.send_chunked("/v1/keys/larger", &larger).await;
    assert_eq!((chunked.status, chunked.errno().as_str()), (413, "EFBIG"));
    let accept = [("Accept", "application/json")];
    let spelled = gateway.send("GET", "/v1/keys/large", &accept, b"").await;
    assert_eq!((spelled.status, spelled.errno().as_str()), (413, "EFBIG"));
    assert_eq!(gateway.get("/v1/keys/larger").await.status, 404);
}
