//! `/v1/cluster`, `/healthz`, `/metrics`, and life without a cluster.

use std::process::Command;

use serde_json::json;

use crate::fake::FakeCluster;
use crate::process::Gateway;

#[tokio::test]
async fn the_cluster_is_described() {
    // Goal: nodes, partitions, leaders, capacity, health. Method: three nodes that are well.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let told = gateway.get("/v1/cluster").await.json();
    assert_eq!(told["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(told["partitions"].as_array().unwrap().len(), 4);
    assert_eq!(told["nodes"][0]["leads"], 2);
    assert_eq!(told["partitions"][0]["leader"], 1);
    assert_eq!(told["capacity"]["diskTotalBytes"], (3_u64 << 40).to_string());
    let health = json!({"healthy": true, "leaderlessPartitions": [], "unreachableNodes": []});
    assert_eq!(told["health"], health);
    assert_eq!(gateway.get("/healthz").await.json(), health);
    let metrics = String::from_utf8(gateway.get("/metrics").await.body).unwrap();
    let line = "bark_http_requests_total{route=\"/v1/cluster\",method=\"GET\",status=\"200\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn the_gateway_waits_for_a_cluster_that_is_not_up_yet() {
    // Goal: the order of starting does not matter. Method: nothing on the port, then a cluster found at another.
    let cluster = FakeCluster::start(1, 2).await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = holder.local_addr().unwrap().to_string();
    drop(holder);
    let gateway = Gateway::start(std::slice::from_ref(&dead));
    let early = gateway.get("/v1/keys/k").await;
    assert_eq!(
        (early.status, early.errno().as_str(), early.header("retry-after")),
        (503, "EAGAIN", "1")
    );
    assert_eq!(gateway.get("/healthz").await.status, 503);
    assert_eq!(gateway.get("/").await.status, 200);
    let listener = tokio::net::TcpListener::bind(&dead).await.unwrap();
    let node = cluster.addresses[0].clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut node = tokio::net::TcpStream::connect(&node).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut node).await });
        }
    });
    while gateway.get("/healthz").await.status != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gateway.get("/v1/keys/k").await.status, 404);
}

#[test]
fn only_loopback_is_listened_on() {
    // Goal: exposure by mistake ends at once, with the reason. Method: the command line.
    let output = Command::new(env!("CARGO_BIN_EXE_cerializer"))
        .args(["--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(
        sentence.starts_with("cerializer: --listen 0.0.0.0:0: not a loopback address"),
        "{sentence}"
    );
}
