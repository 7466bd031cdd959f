//! `vigie doctor`: checks this machine and a deployment, and says what to do about what is wrong.

use clap::Args;

#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {}

pub fn run(_: &DoctorArgs) -> anyhow::Result<()> {
    Ok(())
}
