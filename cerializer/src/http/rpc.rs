//! `/v1/rpc/{Interface}/{method}`: the schema's methods as JSON. Not there yet.

use axum::http::{StatusCode, Uri};
use axum::routing::{MethodRouter, post};

use crate::app::App;
use crate::problem::Problem;

pub fn routes() -> MethodRouter<App> {
    post(refuse)
}

async fn refuse(uri: Uri) -> Problem {
    let detail = format!(
        "{}: methods of the schema cannot be called over HTTP yet",
        uri.path()
    );
    Problem::new(StatusCode::NOT_IMPLEMENTED, "EOPNOTSUPP", detail)
}
