//! `bark`: files, keys and the cluster from the command line.
//!
//! Reading order: `arguments` (what can be said), `verbs` (one file a verb), `output` and `problem` (how it
//! answers). Exit status: 0 done, 1 the operation failed, 2 wrong usage or configuration.

mod arguments;
mod mount_helper;
mod output;
mod problem;
mod progress;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use bark_client::Client;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, GlobalArguments, LogFormat};
use crate::output::Output;
use crate::problem::Problem;
use crate::verbs::Verb;

fn main() -> ExitCode {
    let words = mount_helper::translate(std::env::args_os().collect());
    let arguments = Arguments::parse_from(&words);
    let verb = arguments.verb.name();
    match run(arguments, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(verb),
    }
}

fn run(arguments: Arguments, words: Vec<OsString>) -> Result<(), Problem> {
    start_log(&arguments.global)?;
    let arguments = match arguments.verb {
        Verb::Mount(mount) => return mount.run(arguments.global, words),
        Verb::Umount(umount) => return umount.run(),
        _ => arguments,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::failed("runtime", error.to_string()))?;
    runtime.block_on(async {
        let client = Client::connect(arguments.global.client_config()?).await?;
        let mut output = Output::new(arguments.global.json);
        arguments.verb.run(&client, &mut output).await?;
        output.finish()
    })
}

fn start_log(arguments: &GlobalArguments) -> Result<(), Problem> {
    let filter = EnvFilter::try_new(&arguments.log_level)
        .map_err(|error| Problem::usage("--log-level", error.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
