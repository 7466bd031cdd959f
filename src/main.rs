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
    share_heaps();
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

/// Has all threads share as many heaps as there are processors. The C library would give each of a session's threads one
/// of its own, up to eight a processor, and what is free in one is of no use to another: memory creeps up.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn share_heaps() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        let heaps = vigie::commands::service::cores().max(2);
        // SAFETY: takes plain integers; it returns 0 where it does not know the setting, which then stays as it was.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(heaps).unwrap_or(i32::MAX)) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_heaps() {}

#[cfg(feature = "media")]
fn is_interrupted(error: &anyhow::Error) -> bool {
    error.is::<commands::annotate::Interrupted>()
}

#[cfg(not(feature = "media"))]
fn is_interrupted(_: &anyhow::Error) -> bool {
    false
}
