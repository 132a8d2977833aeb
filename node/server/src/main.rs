//! `bark-node`: one member of a BarkFS cluster.

use std::process::ExitCode;

use bark_node::config::{Arguments, Config, LogFormat};
use bark_node::startup::Node;
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_logging(&arguments) {
        return refuse(&error, 2);
    }
    let config = match Config::from_arguments(&arguments) {
        Ok(config) => config,
        Err(error) => return refuse(&error, 2),
    };
    let signals = match bark_node::signals::Signals::take() {
        Ok(signals) => signals,
        Err(error) => return refuse(&error, 1),
    };
    let node = match Node::start(&config) {
        Ok(node) => node,
        Err(error) => return refuse(&error, if error.is_configuration() { 2 } else { 1 }),
    };
    tracing::info!(
        node = config.node_id,
        capnp = %config.capnp,
        resp = %config.resp,
        http = %config.http,
        workers = config.workers,
        pinned = config.pin,
        "ready"
    );
    signals.wait();
    tracing::info!("stopping");
    node.stop();
    ExitCode::SUCCESS
}

fn start_logging(arguments: &Arguments) -> Result<(), bark_node::config::Error> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log_level)
        .map_err(|error| bark_node::config::Error::LogLevel(error.to_string()))?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => logging.init(),
        LogFormat::Json => logging.json().init(),
    }
    Ok(())
}

/// One line on standard error: what, where, why.
fn refuse(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut line = format!("bark-node: {error}");
    let mut source = error.source();
    while let Some(reason) = source {
        let text = reason.to_string();
        if !line.contains(&text) {
            line.push_str(&format!(": {text}"));
        }
        source = reason.source();
    }
    eprintln!("{line}");
    ExitCode::from(code)
}
