//! `vigie doctor`: checks this machine and a deployment, and says what to do about what is wrong.

mod deployment;
mod finding;
mod machine;
mod ranges;
mod relay;

use anyhow::bail;
use clap::Args;

use crate::cli::{AccessArgs, InferenceArgs, Secret};
use finding::{Findings, Verdict};
use ranges::Range;

#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// A running service to check from here: http, https, ws or wss. Without it only this machine is checked.
    url: Option<String>,
    /// Check the service only, not this machine.
    #[arg(long, requires = "url")]
    skip_machine: bool,
    /// The relay's secret, for a check that it refuses credentials that were good and have expired.
    #[arg(long, env = "VIGIE_TURN_SECRET", hide_env_values = true)]
    turn_secret: Option<Secret>,
    /// Where the workers are, which is all that the relay may reach: 10.1.0.0-10.1.255.255, comma-separated.
    #[arg(long, env = "VIGIE_TURN_WORKERS", value_delimiter = ',')]
    turn_workers: Vec<Range>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    inference: InferenceArgs,
}

/// Checks, prints what was found, and fails when something is broken.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    if !args.skip_machine {
        machine::check(&args.inference, &mut findings);
    }
    if let Some(url) = &args.url {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(deployment::check(url, args, &mut findings));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.print();
    }
    match findings.count(Verdict::Fail) {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        count => bail!("{count} checks failed"),
    }
}

/// An error with what caused it, in one line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}
