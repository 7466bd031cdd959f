//! `vigie token`: mints a token that opens sessions, or an admin's.

use anyhow::{Context, bail};
use clap::Args;

use crate::cli::Secret;
use crate::cluster::protocol::{Attributes, SessionTerms, TaskList};
use crate::signalling::auth::{self, Claims, TokenKey};

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Whom it is for.
    #[arg(long)]
    pub subject: String,
    /// Hours that it is good for.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=87_600))]
    pub hours: u64,
    /// An admin's token, signed with the admin's secret.
    #[arg(long, conflicts_with_all = ["tasks", "max_seconds"])]
    pub admin: bool,
    /// What its sessions may recognise, of faces, gender, objects and text; without it, all.
    #[arg(long, value_delimiter = ',')]
    pub tasks: Option<Vec<String>>,
    /// Seconds after which each of its sessions ends.
    #[arg(long)]
    pub max_seconds: Option<u32>,
    /// By which its sessions' models are chosen where traffic has variants, as cohort:b,plan:pro.
    #[arg(long, conflicts_with = "admin", value_parser = Attributes::from_text, default_value = "", hide_default_value = true)]
    pub attributes: Attributes,
    /// What the front signs session tokens with; better given as VIGIE_SESSION_SECRET.
    #[arg(long, env = "VIGIE_SESSION_SECRET", hide_env_values = true)]
    pub session_secret: Option<Secret>,
    /// The front's admin token; better given as VIGIE_ADMIN_TOKEN.
    #[arg(long, env = "VIGIE_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<Secret>,
}

/// Prints the token.
pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    println!("{}", mint(args)?);
    Ok(())
}

fn mint(args: &TokenArgs) -> anyhow::Result<String> {
    if args.subject.trim().is_empty() {
        bail!("--subject is empty");
    }
    let (secret, name) = match args.admin {
        true => (&args.admin_token, "VIGIE_ADMIN_TOKEN"),
        false => (&args.session_secret, "VIGIE_SESSION_SECRET"),
    };
    let secret = secret.as_ref().with_context(|| format!("{name} is not set: a token is signed with it"))?;
    let key = TokenKey::new(&secret.0).context(name)?;
    let (now, lifetime) = (auth::now_s(), args.hours * 3600);
    if args.admin {
        return Ok(key.mint(&Claims::admin(&args.subject, now, lifetime)));
    }
    let names = args.tasks.as_deref().unwrap_or_default();
    if let Some(unknown) = names.iter().find(|name| !TaskList::NAMES.contains(&name.as_str())) {
        bail!("{unknown:?} is no task: there are {}", TaskList::NAMES.join(", "));
    }
    let tasks = args.tasks.clone().map(TaskList::from);
    let attributes = args.attributes.clone();
    let terms = SessionTerms { tasks, max_seconds: args.max_seconds, attributes, ..SessionTerms::default() };
    Ok(key.mint(&Claims::session(&args.subject, now, lifetime, terms)))
}
