//! What is built in: the web page and the description of the routes.
//!
//! The page is plain HTML, CSS and JavaScript out of `web/`; it loads nothing from elsewhere and its policy
//! lets it do nothing else.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use crate::app::App;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn routes() -> MethodRouter<App> {
    get(async || built_in("text/html; charset=utf-8", include_str!("../../web/index.html")))
}

pub fn script_routes() -> MethodRouter<App> {
    get(async || {
        built_in(
            "text/javascript; charset=utf-8",
            include_str!("../../web/page.js"),
        )
    })
}

pub fn style_routes() -> MethodRouter<App> {
    get(async || built_in("text/css; charset=utf-8", include_str!("../../web/page.css")))
}

pub fn openapi_routes() -> MethodRouter<App> {
    get(async || built_in("application/json", include_str!("../../web/openapi.json")))
}

fn built_in(content_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
