//! `/v1/meta` and `/v1/dirs`.

use serde_json::{Value, json};

use crate::process::Gateway;

#[tokio::test]
async fn attributes_are_told_and_changed() {
    // Goal: stat and PATCH by the schema's names. Method: one file; then what cannot be understood.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    gateway.send("PUT", "/v1/files/a", &[], b"12345").await;
    let stat = gateway.get("/v1/meta/a").await;
    let told = stat.json();
    assert_eq!(
        (&told["kind"], &told["size"], &told["path"]),
        (&json!("regular"), &json!("5"), &json!("/a"))
    );
    assert_eq!(
        stat.header("etag"),
        gateway.get("/v1/files/a").await.header("etag")
    );
    let changed = gateway
        .send_json("PATCH", "/v1/meta/a", json!({"mode": 0o600, "owner": 7}))
        .await;
    assert_eq!((changed.status, &changed.json()["mode"]), (200, &json!(0o600)));
    let refused = gateway.send_json("PATCH", "/v1/meta/a", json!({"moed": 1})).await;
    assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("moed")));
    let form = [("Content-Type", "text/plain")];
    assert_eq!(
        gateway.send("PATCH", "/v1/meta/a", &form, b"{}").await.status,
        415
    );
    let large = vec![b' '; 2 << 20];
    let json_type = [("Content-Type", "application/json")];
    assert_eq!(
        gateway
            .send("PATCH", "/v1/meta/a", &json_type, &large)
            .await
            .status,
        413
    );
}

#[tokio::test]
async fn files_are_renamed_and_linked() {
    // Goal: POST gives names. Method: rename, symbolic link, and what the link leads to.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    gateway.send("PUT", "/v1/files/a", &[], b"content").await;
    let renamed = gateway
        .send_json("POST", "/v1/meta/a", json!({"rename": "/b"}))
        .await;
    assert_eq!((renamed.status, renamed.header("location")), (200, "/v1/meta/b"));
    assert_eq!(gateway.get("/v1/files/a").await.status, 404);
    assert_eq!(
        gateway
            .send_json("POST", "/v1/meta/l", json!({"symlink": "b"}))
            .await
            .status,
        201
    );
    assert_eq!(gateway.get("/v1/files/l").await.body, b"content");
    let link = gateway.get("/v1/meta/l?follow=false").await.json();
    assert_eq!((&link["kind"], &link["target"]), (&json!("symlink"), &json!("b")));
    for body in [
        json!({}),
        json!({"rename": "relative"}),
        json!({"rename": "/x", "symlink": "y"}),
    ] {
        assert_eq!(
            gateway.send_json("POST", "/v1/meta/b", body.clone()).await.status,
            400,
            "{body}"
        );
    }
}

#[tokio::test]
async fn directories_are_listed_page_by_page() {
    // Goal: pages join without gap or double, whatever bytes the names have. Method: seven names, pages of three.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    gateway.send("PUT", "/v1/dirs/d/e?parents=true", &[], b"").await;
    for name in ["a", "b%20c", "%FF%FE", "%3Cb%3E", "z", "%C3%BC"] {
        let made = gateway
            .send("PUT", &format!("/v1/files/d/{name}"), &[], b"x")
            .await;
        assert_eq!(made.status, 201, "{name}");
    }
    let mut names = Vec::new();
    let mut next = json!("/v1/dirs/d?limit=3");
    while let Value::String(target) = &next {
        let page = gateway.get(target).await.json();
        let entries = page["entries"].as_array().unwrap();
        assert!((1..=3).contains(&entries.len()), "{page}");
        names.extend(
            entries
                .iter()
                .map(|entry| (entry["name"].clone(), entry["nameEncoding"].clone())),
        );
        next = page["next"].clone();
    }
    let expected = ["<b>", "a", "b c", "e", "z", "ü"].map(|name| (json!(name), Value::Null));
    assert_eq!(names[..6], expected);
    assert_eq!(names[6..], [(json!("%FF%FE"), json!("percent"))]);
    assert_eq!(gateway.get("/v1/dirs/d/a").await.errno(), "ENOTDIR");
    assert_eq!(gateway.get("/v1/dirs/d?limit=0").await.json()["field"], "limit");
}

#[tokio::test]
async fn directories_are_made_and_removed() {
    // Goal: parents and recursive do what they say and only when asked. Method: each with and without.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    assert_eq!(
        gateway.send("PUT", "/v1/dirs/a/b", &[], b"").await.errno(),
        "ENOENT"
    );
    assert_eq!(
        gateway
            .send("PUT", "/v1/dirs/a/b?parents=true", &[], b"")
            .await
            .status,
        201
    );
    assert_eq!(
        gateway
            .send("PUT", "/v1/dirs/a/b?parents=true", &[], b"")
            .await
            .status,
        200
    );
    assert_eq!(
        gateway.send("PUT", "/v1/dirs/a/b", &[], b"").await.errno(),
        "EEXIST"
    );
    assert_eq!(
        gateway.send("DELETE", "/v1/dirs/a", &[], b"").await.errno(),
        "ENOTEMPTY"
    );
    assert_eq!(
        gateway
            .send("DELETE", "/v1/dirs/a?recursiv=true", &[], b"")
            .await
            .status,
        400
    );
    assert_eq!(
        gateway
            .send("DELETE", "/v1/dirs/a?recursive=true", &[], b"")
            .await
            .status,
        204
    );
    assert_eq!(gateway.get("/v1/meta/a").await.status, 404);
    assert_eq!(
        gateway
            .send("DELETE", "/v1/dirs/?recursive=true", &[], b"")
            .await
            .status,
        400
    );
}
