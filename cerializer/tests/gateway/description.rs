//! `/openapi.json` against the routes themselves, and the page.

use std::collections::BTreeSet;

use crate::process::Gateway;

#[tokio::test]
async fn the_description_names_exactly_the_methods_there_are() {
    // Goal: the description cannot go out of date. Method: ask every path for its methods with a wrong one.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let description = gateway.get("/openapi.json").await.json();
    for (path, methods) in description["paths"].as_object().unwrap() {
        let target = path.replace(['{', '}'], "");
        let answer = gateway.send("OPTIONS", &target, &[], b"").await;
        assert_eq!(answer.status, 405, "{path}");
        let allowed: BTreeSet<String> = answer.header("allow").split(',').map(str::to_lowercase).collect();
        let mut described: BTreeSet<String> = methods.as_object().unwrap().keys().cloned().collect();
        if path.ends_with("/incr") {
            // The same route as the key's, told apart by its end.
            described.extend(["get", "head", "put", "delete"].map(String::from));
        } else if path == "/v1/keys/{key}" {
            described.insert("post".into());
        }
        if described.contains("get") {
            // What is not described of HEAD is that it is GET without a body.
            described.insert("head".into());
        }
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    // Goal: the page works without the world. Method: its policy, and what its files refer to.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    for (target, content_type) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ] {
        let answer = gateway.get(target).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with(content_type));
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none'")
        );
        let text = String::from_utf8(answer.body).unwrap();
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
        ] {
            assert!(!text.contains(forbidden), "{target}: {forbidden}");
        }
    }
}
