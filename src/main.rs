//! Parses, dispatches, and turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use vigie::cli::{Cli, Command};
use vigie::{commands, telemetry};

fn main() -> ExitCode {
    // Microsoft's builds of ONNX Runtime (1.31 at least) else gather what is run and where in a folder of the
    // user's, and send it home; the runtime's own switch comes too late for that.
    // SAFETY: this is the process's first line, and no other thread reads the environment yet.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    let cli = Cli::parse();
    let started = telemetry::logging::start(cli.logging.filter.as_deref(), cli.logging.log_format);
    let outcome = started.and_then(|()| match cli.command {
        #[cfg(feature = "media")]
        Command::Serve(args) => commands::serve::run(&args),
        Command::Signal(args) => commands::signal::run(&args),
        #[cfg(feature = "media")]
        Command::Worker(args) => commands::worker::run(&args),
        Command::Token(args) => commands::token::run(&args),
        Command::Health(args) => commands::health::run(&args),
        #[cfg(feature = "media")]
        Command::Annotate(args) => commands::annotate::run(&args),
        #[cfg(feature = "media")]
        Command::Models(args) => commands::models::run(args),
        #[cfg(feature = "media")]
        Command::Bench(args) => commands::bench::run(args),
        #[cfg(feature = "media")]
        Command::Load(args) => commands::load::run(&args),
        #[cfg(feature = "media")]
        Command::Doctor(args) => commands::doctor::run(&args),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vigie: {error:#}");
            // As shells write it for a program that Ctrl-C has ended.
            if is_interrupted(&error) { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(feature = "media")]
fn is_interrupted(error: &anyhow::Error) -> bool {
    error.is::<commands::annotate::Interrupted>()
}

#[cfg(not(feature = "media"))]
fn is_interrupted(_: &anyhow::Error) -> bool {
    false
}
