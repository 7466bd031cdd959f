//! `vigie models traffic URL`: which versions the slots of a running service use, and for whom; shows and changes it.

use std::io::{self, Write};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::remote::{ask, refused, wait};
use crate::cli::AccessArgs;
use crate::load::target::Target;
use crate::models::traffic::{Candidate, ModelVersion, Slot, Traffic};

#[derive(Clone, Debug, Args)]
pub struct TrafficArgs {
    /// The service, such as https://vigie.example.org.
    pub url: String,
    /// The slot: faces, gender, objects, classify:LABEL, text-detect or text-read; without it, all are listed.
    pub slot: Option<Slot>,
    /// The version for everybody, NAME@VERSION, or default for the one that the slot has by itself.
    #[arg(long, value_name = "MODEL", value_parser = parse_stable, requires = "slot")]
    pub stable: Option<Named>,
    /// A version for a percent of sessions, NAME@VERSION:PERCENT, or none.
    #[arg(long, value_name = "SHARE", value_parser = parse_share, requires = "slot")]
    pub canary: Option<Shared>,
    /// A version that runs beside on a percent of pictures, to be compared, NAME@VERSION:PERCENT, or none.
    #[arg(long, value_name = "SHARE", value_parser = parse_share, requires = "slot")]
    pub shadow: Option<Shared>,
    /// A version for the sessions of an attribute, ATTRIBUTE=VALUE:NAME@VERSION, or none; all that there are to be.
    #[arg(long = "variant", value_name = "VARIANT", value_parser = parse_variant, requires = "slot")]
    pub variants: Vec<Varied>,
    /// Make the canary, or the shadow, the version for everybody.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "any",
        conflicts_with_all = ["stable", "canary", "shadow", "variants"], requires = "slot")]
    pub promote: Option<Promoted>,
    /// Take back what was tried last.
    #[arg(long, conflicts_with_all = ["stable", "canary", "shadow", "variants", "promote"], requires = "slot")]
    pub roll_back: bool,
    /// Have the slot use its own model again, for everybody.
    #[arg(long, conflicts_with_all = ["stable", "canary", "shadow", "variants", "promote", "roll_back"],
        requires = "slot")]
    pub reset: bool,
    /// Why, for the history.
    #[arg(long)]
    pub why: Option<String>,
    /// Print the service's answer as it is.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// A version by its name; none is the slot's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Named(Option<ModelVersion>);

fn parse_stable(text: &str) -> anyhow::Result<Named> {
    Ok(Named(if text == "default" { None } else { Some(text.parse()?) }))
}

/// A share as the API has it, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared(Value);

fn parse_share(text: &str) -> anyhow::Result<Shared> {
    if text == "none" {
        return Ok(Shared(Value::Null));
    }
    let (model, percent) = text.split_once(':').context("it is none, or NAME@VERSION:PERCENT")?;
    let model = ModelVersion::from_str(model)?;
    let percent = percent.trim_end_matches('%').parse::<u8>().ok().filter(|p| (1..=100).contains(p));
    let percent = percent.context("a percent is a number from 1 to 100")?;
    Ok(Shared(json!({ "model": model, "percent": percent })))
}

/// A variant as the API has it, or that there is to be none.
#[derive(Clone, Debug, PartialEq)]
pub struct Varied(Option<Value>);

fn parse_variant(text: &str) -> anyhow::Result<Varied> {
    if text == "none" {
        return Ok(Varied(None));
    }
    let parts = text.split_once('=').and_then(|(attribute, rest)| Some((attribute, rest.split_once(':')?)));
    let (attribute, (equals, model)) = parts.context("it is none, or ATTRIBUTE=VALUE:NAME@VERSION")?;
    let model = ModelVersion::from_str(model)?;
    Ok(Varied(Some(json!({ "model": model, "attribute": attribute, "equals": equals }))))
}

/// What is to be promoted; none is whatever there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promoted(Option<Candidate>);

impl FromStr for Promoted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "any" => Ok(Self(None)),
            "canary" => Ok(Self(Some(Candidate::Canary))),
            "shadow" => Ok(Self(Some(Candidate::Shadow))),
            _ => Err("it is canary or shadow"),
        }
    }
}

/// Shows the traffic, once it has been changed if that is asked for.
pub fn run(args: &TrafficArgs) -> anyhow::Result<()> {
    wait(async {
        let target = args.access.target(&args.url).await?;
        match &args.slot {
            None => list(&target, args).await,
            Some(slot) => {
                change(&target, slot, args).await?;
                show(&target, slot, args).await
            }
        }
    })
}

/// A slot as a part of an address.
fn path_of(slot: &Slot, rest: &str) -> String {
    let mut path = "/api/traffic/".to_owned();
    for byte in slot.name().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b':' => path.push(char::from(byte)),
            other => path += &format!("%{other:02X}"),
        }
    }
    path + rest
}

async fn change(target: &Target, slot: &Slot, args: &TrafficArgs) -> anyhow::Result<()> {
    let (method, path, body) = if let Some(Promoted(from)) = args.promote {
        (Method::POST, path_of(slot, "/promote"), json!({ "from": from, "why": args.why }))
    } else if args.roll_back {
        (Method::POST, path_of(slot, "/rollback"), json!({ "why": args.why }))
    } else if args.reset {
        (Method::DELETE, path_of(slot, ""), Value::Null)
    } else if args.stable.is_some()
        || args.canary.is_some()
        || args.shadow.is_some()
        || !args.variants.is_empty()
    {
        let (status, before) = ask(target, Method::GET, &path_of(slot, ""), &Value::Null).await?;
        let before = match status {
            StatusCode::OK => before,
            StatusCode::NOT_FOUND => json!({ "revision": 0 }),
            status => return Err(refused(status, &before)),
        };
        (Method::PUT, path_of(slot, ""), wish(before, args))
    } else {
        return Ok(());
    };
    let (status, answer) = ask(target, method, &path, &body).await?;
    if status.is_success() { Ok(()) } else { Err(refused(status, &answer)) }
}

/// `before` with the changes that are asked for.
fn wish(mut before: Value, args: &TrafficArgs) -> Value {
    if let Some(Named(stable)) = &args.stable {
        before["stable"] = json!(stable);
        // What becomes stable has no other part.
        for share in ["canary", "shadow"] {
            if stable.is_some() && before[share]["model"] == before["stable"] {
                before[share] = Value::Null;
            }
        }
    }
    for (name, share) in [("canary", &args.canary), ("shadow", &args.shadow)] {
        if let Some(Shared(share)) = share {
            before[name] = share.clone();
        }
    }
    if !args.variants.is_empty() {
        before["variants"] = args.variants.iter().filter_map(|Varied(variant)| variant.clone()).collect();
    }
    before
}

async fn list(target: &Target, args: &TrafficArgs) -> anyhow::Result<()> {
    let (status, body) = ask(target, Method::GET, "/api/traffic", &Value::Null).await?;
    if status != StatusCode::OK {
        return Err(refused(status, &body));
    }
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{body}")?);
    }
    let traffics: Vec<Traffic> = serde_json::from_value(body["traffic"].clone())?;
    for (slot, model) in body["serving"].as_object().into_iter().flatten() {
        if !traffics.iter().any(|traffic| *slot == traffic.slot.name()) {
            writeln!(out, "{slot}: {} (its own)", model.as_str().unwrap_or_default())?;
        }
    }
    for traffic in traffics {
        writeln!(out, "{}: {traffic}", traffic.slot)?;
    }
    for (model, why) in body["not_loaded"].as_object().into_iter().flatten() {
        writeln!(out, "{model} is not loaded: {}", why.as_str().unwrap_or_default())?;
    }
    Ok(())
}

async fn show(target: &Target, slot: &Slot, args: &TrafficArgs) -> anyhow::Result<()> {
    let (status, body) = ask(target, Method::GET, &path_of(slot, ""), &Value::Null).await?;
    if !matches!(status, StatusCode::OK | StatusCode::NOT_FOUND) {
        bail!(refused(status, &body));
    }
    let (_, figures) = ask(target, Method::GET, &path_of(slot, "/figures"), &Value::Null).await?;
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", json!({ "traffic": body, "figures": figures }))?);
    }
    match status {
        StatusCode::OK => {
            let traffic: Traffic = serde_json::from_value(body)?;
            writeln!(out, "{slot}: {traffic} (revision {})", traffic.revision)?;
            for event in traffic.history.iter().rev().take(5) {
                writeln!(out, "  {}  {}: {}", time_of(event.at), event.what, event.why)?;
            }
        }
        _ => writeln!(out, "{slot}: no traffic, it uses its own model")?,
    }
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |value| format!("{value:.1}"));
    let heads = ["model", "role", "sessions", "runs", "errors", "p50 ms", "p95 ms", "agreement"];
    let mut rows = vec![heads.map(str::to_owned)];
    for version in figures["versions"].as_array().into_iter().flatten() {
        let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
        let count = |name: &str| version[name].as_u64().unwrap_or_default().to_string();
        let agreement = version["agreement"]["f1"].as_f64();
        rows.push([
            text("model"),
            text("role"),
            count("sessions"),
            count("runs"),
            count("errors"),
            number(&version["p50_ms"]),
            number(&version["p95_ms"]),
            agreement.map_or("-".to_owned(), |f1| format!("{f1:.3}")),
        ]);
    }
    for row in &rows {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<w$}", w = width(column)));
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// A moment, in UTC.
fn time_of(at: u64) -> String {
    let moment = i64::try_from(at).ok().and_then(|at| chrono::DateTime::from_timestamp(at, 0));
    moment.map(|moment| moment.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TrafficArgs,
    }

    fn args(line: &str) -> Option<TrafficArgs> {
        let words = ["traffic", "http://localhost"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).ok().map(|line| line.args)
    }

    #[test]
    fn changes_are_made_to_what_is_there() {
        let before = json!({
            "slot": "objects", "revision": 7, "stable": "yolo@3",
            "canary": { "model": "yolo@4", "percent": 10 },
            "variants": [{ "model": "yolox@1", "attribute": "cohort", "equals": "b" }],
        });
        for (line, part, expected) in [
            ("objects --canary yolo@4:50", "/canary/percent", json!(50)),
            ("objects --canary yolo@4:50", "/stable", json!("yolo@3")),
            ("objects --canary yolo@4:50%", "/revision", json!(7)),
            ("objects --canary none", "/canary", Value::Null),
            ("objects --stable yolo@4", "/canary", Value::Null),
            ("objects --stable default", "/stable", Value::Null),
            ("objects --stable default", "/canary/model", json!("yolo@4")),
            ("objects --shadow yolo@5:100", "/shadow", json!({ "model": "yolo@5", "percent": 100 })),
            ("objects --variant none", "/variants", json!([])),
            ("objects --variant plan=pro:detr@2", "/variants/0/model", json!("detr@2")),
            ("objects --variant plan=pro:detr@2", "/variants/0/equals", json!("pro")),
        ] {
            let wished = wish(before.clone(), &args(line).unwrap());
            assert_eq!(wished.pointer(part).cloned(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "objects",
            "objects --promote",
            "objects --promote shadow",
            "classify:dog --stable kinds@1",
            "objects --roll-back --why worse",
        ] {
            assert!(args(line).is_some(), "{line}");
        }
        for line in [
            "nothing",
            "--stable yolo@1",
            "objects --stable yolo",
            "objects --canary yolo@1",
            "objects --canary yolo@1:0",
            "objects --canary yolo@1:101",
            "objects --variant yolo@1",
            "objects --promote --roll-back",
            "objects --promote everything",
            "objects --reset --stable yolo@1",
        ] {
            assert!(args(line).is_none(), "{line}");
        }
    }

    #[test]
    fn slots_are_escaped_in_addresses() {
        for (slot, path) in [
            ("objects", "/api/traffic/objects/figures"),
            ("classify:traffic light", "/api/traffic/classify:traffic%20light/figures"),
            ("classify:a/b?é", "/api/traffic/classify:a%2Fb%3F%C3%A9/figures"),
        ] {
            assert_eq!(path_of(&slot.parse().unwrap(), "/figures"), path);
        }
    }
}
