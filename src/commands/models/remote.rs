//! What is asked of a running service in place of a folder here: its models, and the end of a version.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{about, print_table};
use crate::cli::AccessArgs;
use crate::load::target::Target;
use crate::models::manifest::Manifest;
use crate::models::traffic::{ModelVersion, Traffic};

/// The service to ask.
#[derive(Clone, Debug, Args)]
pub struct ServiceArgs {
    /// Do it at the running service at this address, such as https://vigie.example.org, instead of in the folder here.
    /// Whatever changes something there wants an admin's token.
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Prints the models of the service at `url`: with each version the workers that have it loaded, and the slots whose
/// traffic names it.
pub fn list(url: &str, access: &AccessArgs) -> anyhow::Result<()> {
    let body = wait(async {
        let target = access.target(url).await?;
        match ask(&target, Method::GET, "/api/models", &Value::Null).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(refused(status, &body)),
        }
    });
    let body = body.with_context(|| format!("listing the models of {url}"))?;
    let rows = rows(&body).context("reading the service's answer")?;
    if rows.is_empty() {
        eprintln!("nobody has added a model to {url}: `vigie models add FILE --to {url}` does");
        return Ok(());
    }
    let header = ["NAME", "VERSION", "TASK", "INPUT", "LABELS", "LICENCE", "WORKERS", "SLOTS"];
    Ok(print_table(&std::iter::once(header.map(str::to_owned)).chain(rows).collect::<Vec<_>>())?)
}

fn rows(body: &Value) -> anyhow::Result<Vec<[String; 8]>> {
    let mut slots: BTreeMap<ModelVersion, Vec<String>> = BTreeMap::new();
    for traffic in serde_json::from_value::<Vec<Traffic>>(body["traffic"].clone())? {
        for model in traffic.models() {
            slots.entry(model.clone()).or_default().push(traffic.slot.to_string());
        }
    }
    let models = body["models"].as_array().context("it lists no models")?;
    let versions = models.iter().flat_map(|model| model["versions"].as_array().into_iter().flatten());
    let row = |version: &Value| {
        let manifest: Manifest = serde_json::from_value(version.clone())?;
        let workers = version["state"]["workers"].to_string();
        let used_in =
            slots.get(&ModelVersion::of(&manifest)).map_or("-".to_owned(), |slots| slots.join(", "));
        let [task, input, labels, licence] = about(&manifest);
        Ok([manifest.name, manifest.version.to_string(), task, input, labels, licence, workers, used_in])
    };
    versions.map(row).collect()
}

/// Removes a version from the service at `url`.
pub fn remove(url: &str, access: &AccessArgs, model: &ModelVersion) -> anyhow::Result<()> {
    let path = format!("/api/models/{}/versions/{}", model.name, model.version);
    let removed = wait(async {
        let target = access.target(url).await?;
        let (status, body) = ask(&target, Method::DELETE, &path, &Value::Null).await?;
        if !status.is_success() {
            bail!(refused(status, &body));
        }
        Ok(())
    });
    removed.with_context(|| format!("removing {model} from {url}"))
}

/// Waits for what is asked of a service.
pub fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// One exchange, whose answer is JSON; none is `null`.
pub async fn ask(
    target: &Target,
    method: Method,
    path: &str,
    body: &Value,
) -> anyhow::Result<(StatusCode, Value)> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let headers = [("content-type", "application/json")];
    let answer = target.ask(method, path, &headers, body.into()).await?;
    Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default()))
}

/// What the service says when it does not do it.
pub fn refused(status: StatusCode, body: &Value) -> anyhow::Error {
    let error = &body["error"];
    match (error["code"].as_str(), error["message"].as_str()) {
        (Some(code), Some(message)) => anyhow::anyhow!("{message} ({code})"),
        _ => anyhow::anyhow!("the service answered {status}"),
    }
}
