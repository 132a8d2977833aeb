//! `/v1/files`.

use bark_schema::operation::{Failure, Refusal, Request};
use tokio::io::AsyncWriteExt;

use crate::fake::Fault;
use crate::process::Gateway;

#[tokio::test]
async fn files_are_written_read_and_removed() {
    // Goal: the life of a file, each step with its status. Method: one file, small and then large.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    for (content, status) in [(b"small".as_slice(), 201), (large.as_slice(), 204), (b"", 204)] {
        assert_eq!(
            gateway.send("PUT", "/v1/files/a", &[], content).await.status,
            status
        );
        let read = gateway.get("/v1/files/a").await;
        assert_eq!((read.status, read.body.as_slice()), (200, content));
        let head = gateway.send("HEAD", "/v1/files/a", &[], b"").await;
        assert_eq!(head.header("content-length"), content.len().to_string());
        assert_eq!((head.header("etag"), head.body.len()), (read.header("etag"), 0));
    }
    assert_eq!(gateway.send("DELETE", "/v1/files/a", &[], b"").await.status, 204);
    let gone = gateway.get("/v1/files/a").await;
    assert_eq!((gone.status, gone.errno().as_str()), (404, "ENOENT"));
    assert_eq!(gone.json()["path"], "/a");
}

#[tokio::test]
async fn parts_and_unchanged_files_are_answered_as_such() {
    // Goal: Range and If-None-Match. Method: 200, 206, 416 and 304 of one file of several blocks.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let content: Vec<u8> = (0..2_500_000_u32).map(|index| (index / 7) as u8).collect();
    gateway.send("PUT", "/v1/files/a", &[], &content).await;
    let tag = gateway.get("/v1/files/a").await.header("etag").to_string();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
        ("bytes=2499990-", 2_499_990, 2_500_000),
        ("bytes=-5", 2_499_995, 2_500_000),
    ] {
        let part = gateway
            .send("GET", "/v1/files/a", &[("Range", range), ("If-Range", &tag)], b"")
            .await;
        assert_eq!(
            (part.status, part.body.as_slice()),
            (206, &content[start..end]),
            "{range}"
        );
        assert_eq!(
            part.header("content-range"),
            format!("bytes {start}-{}/2500000", end - 1)
        );
    }
    let beyond = gateway
        .send("GET", "/v1/files/a", &[("Range", "bytes=2500000-")], b"")
        .await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, "bytes */2500000")
    );
    let unchanged = gateway
        .send("GET", "/v1/files/a", &[("If-None-Match", &tag)], b"")
        .await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let other = gateway
        .send(
            "GET",
            "/v1/files/a",
            &[("Range", "bytes=0-0"), ("If-Range", "\"x\"")],
            b"",
        )
        .await;
    assert_eq!((other.status, other.body.len()), (200, content.len()));
}

#[tokio::test]
async fn changes_on_a_condition_happen_only_if_it_holds() {
    // Goal: a lost update is noticed. Method: both preconditions, before and after a change.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let absent = [("If-None-Match", "*")];
    assert_eq!(
        gateway
            .send("PUT", "/v1/files/a", &[("If-Match", "*")], b"0")
            .await
            .status,
        412
    );
    assert_eq!(
        gateway.send("PUT", "/v1/files/a", &absent, b"1").await.status,
        201
    );
    assert_eq!(
        gateway.send("PUT", "/v1/files/a", &absent, b"2").await.status,
        412
    );
    let tag = gateway.get("/v1/files/a").await.header("etag").to_string();
    assert_eq!(
        gateway
            .send("PUT", "/v1/files/a", &[("If-Match", &tag)], b"3")
            .await
            .status,
        204
    );
    assert_eq!(
        gateway
            .send("PUT", "/v1/files/a", &[("If-Match", &tag)], b"4")
            .await
            .status,
        412
    );
    assert_eq!(
        gateway
            .send("DELETE", "/v1/files/a", &[("If-Match", &tag)], b"")
            .await
            .status,
        412
    );
    assert_eq!(gateway.get("/v1/files/a").await.body, b"3");
}

#[tokio::test]
async fn of_uploads_on_the_same_condition_one_succeeds() {
    // Goal: preconditions hold in one step with the change. Method: eight at once, making the file and then
    // replacing one version of it, small and large.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    for size in [10, 1_500_000] {
        let target = format!("/v1/files/{size}");
        let contents: Vec<Vec<u8>> = (0..8).map(|byte| vec![byte; size]).collect();
        let mut condition = ("If-None-Match", "*".to_string());
        for success in [201, 204, 204] {
            let headers = [(condition.0, condition.1.as_str())];
            let uploads = contents
                .iter()
                .map(|content| gateway.send("PUT", &target, &headers, content));
            let answers = futures::future::join_all(uploads).await;
            let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            let winner = statuses.iter().position(|status| *status == success);
            let read = gateway.get(&target).await;
            assert_eq!(Some(usize::from(read.body[0])), winner, "{statuses:?}");
            statuses.sort();
            assert_eq!(statuses, [&[success], [412; 7].as_slice()].concat());
            condition = ("If-Match", read.header("etag").to_string());
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_file_as_it_was() {
    // Goal: nobody reads half a file. Method: a connection closed after two blocks of an announced larger body.
    let (gateway, cluster) = Gateway::with_cluster().await;
    gateway.send("PUT", "/v1/files/a", &[], b"whole").await;
    let mut stream = gateway.connect().await;
    let head = format!(
        "PUT /v1/files/a HTTP/1.1\r\nHost: {}\r\nContent-Length: 9000000\r\n\r\n",
        gateway.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; 3_000_000]).await.unwrap();
    drop(stream);
    // Counted when the gateway has noticed: the request is no longer in flight but for the one that asks.
    loop {
        let metrics = String::from_utf8(gateway.get("/metrics").await.body).unwrap();
        if metrics.contains("bark_http_requests_in_flight 1\n") {
            break;
        }
    }
    assert_eq!(gateway.get("/v1/files/a").await.body, b"whole");
    assert_eq!(cluster.state.lock().unwrap().names(), ["a"]);
}

#[tokio::test]
async fn what_the_cluster_refuses_is_answered_with_its_errno() {
    // Goal: refusals arrive as status and errno, with the path. Method: a full cluster, a directory, a bad path.
    let (gateway, cluster) = Gateway::with_cluster().await;
    gateway.send("PUT", "/v1/dirs/d", &[], b"").await;
    for (method, target) in [
        ("GET", "/v1/files/d"),
        ("PUT", "/v1/files/d"),
        ("PUT", "/v1/files/"),
    ] {
        let refused = gateway.send(method, target, &[], b"x").await;
        assert_eq!(
            (refused.status, refused.errno().as_str()),
            (409, "EISDIR"),
            "{method} {target}"
        );
    }
    let long = format!("/v1/files/{}", "x".repeat(300));
    assert_eq!(gateway.get(&long).await.errno(), "ENAMETOOLONG");
    assert_eq!(gateway.get("/v1/files/a%2Fb").await.status, 400);
    cluster.script(|_, request| match request {
        Request::Command { .. } => Fault::Fail(Failure::refused(Refusal::NoSpace, "full")),
        _ => Fault::None,
    });
    let full = gateway.send("PUT", "/v1/files/a", &[], b"x").await;
    assert_eq!((full.status, full.errno().as_str()), (507, "ENOSPC"));
}
