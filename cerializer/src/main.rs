//! `cerializer`: the JSON-over-HTTP gateway of BarkFS, with a web page.
//!
//! Reading order: `config` (the command line), `server` (connections), `app` (routes and the rules in front of
//! them), `http` (one file a group of routes), and what those speak: `request`, `conditions`, `json`, `problem`,
//! `rpc`.
//! The gateway keeps no state of its own: several can run, and any can be stopped at any time.

mod app;
mod cluster;
mod conditions;
mod config;
mod http;
mod json;
mod metrics;
mod problem;
mod request;
mod rpc;
mod schema_json;
mod server;
mod text;

use std::process::ExitCode;

use bark_client::ClientConfig;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::config::{Arguments, LogFormat};

const USAGE: u8 = 2;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = std::env::var("BARK_CLUSTER").ok();
    let config = match arguments
        .validate(environment.as_deref())
        .and_then(|config| start_log(&arguments).map(|()| config))
    {
        Ok(config) => config,
        Err(sentence) => return report(&sentence, USAGE),
    };
    match run(&arguments, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => report(&sentence, FAILED),
    }
}

fn report(sentence: &str, status: u8) -> ExitCode {
    eprintln!("cerializer: {sentence}");
    ExitCode::from(status)
}

fn run(arguments: &Arguments, config: ClientConfig) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let result = runtime.block_on(async {
        let failed = |error: std::io::Error| format!("--listen {}: {error}", arguments.listen);
        let listener = TcpListener::bind(arguments.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        };
        tracing::info!("listening on http://{address}");
        server::serve(listener, App::new(config), stop).await;
        Ok(())
    });
    runtime.shutdown_background();
    result
}

fn start_log(arguments: &Arguments) -> Result<(), String> {
    let filter = EnvFilter::try_new(&arguments.log_level).map_err(|error| format!("--log-level: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
