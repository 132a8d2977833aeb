//! `/healthz` and `/metrics`: for those who watch.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

use super::cluster::health;
use crate::app::App;
use crate::json::{self, Object};
use crate::problem::Answer;

pub fn routes() -> MethodRouter<App> {
    get(show)
}

pub fn metrics_routes() -> MethodRouter<App> {
    get(metrics)
}

/// 200 while every partition has a leader; otherwise 503 and the reason.
async fn show(State(app): State<App>) -> Answer {
    let (health, healthy) = match app.cluster().view().await {
        Ok(view) => (health(&view), view.leaderless.is_empty()),
        Err(problem) => (
            serde_json::json!({"healthy": false, "reason": problem.detail()}),
            false,
        ),
    };
    let status = match healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let object = match health {
        serde_json::Value::Object(object) => object,
        _ => Object::new(),
    };
    Ok(json::respond(status, object))
}

async fn metrics(State(app): State<App>) -> Answer {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let text = app.metrics().render(app.cluster().is_connected());
    Ok((content_type, text).into_response())
}
