//! `vigie models add FILE --to URL`: the file goes to a running service, which checks and tries it, and answers what
//! `add` would have said here.

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::add::{AddArgs, Offer};
use super::print;
use super::remote::wait;
use crate::models::manifest::Manifest;
use crate::models::receipt::Receipt;

/// Sends the model and tells what became of it.
pub fn upload(url: &str, args: &AddArgs, offer: Offer) -> anyhow::Result<()> {
    Manifest::check_name(&offer.name)?;
    let path = format!("/api/models/{}", offer.name);
    let form = form(args, offer);
    let answer = wait(async {
        let target = args.service.access.target(url).await?;
        let content_type = format!("multipart/form-data; boundary={}", form.boundary);
        let headers = [("content-type", content_type.as_str()), ("accept", "application/json")];
        let answer = target.send(Method::POST, &path, &headers, form.pieces).await?;
        anyhow::Ok((target.url(), answer))
    });
    let (base, answer) = answer.with_context(|| format!("sending {} to {url}", args.file.display()))?;
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status() != StatusCode::CREATED {
        return refuse(args, answer.status(), &body);
    }
    if args.json {
        println!("{}", String::from_utf8_lossy(answer.body()));
        return Ok(());
    }
    let picture = body["picture"].as_str().map(|path| format!("{base}{path}"));
    let receipt: Receipt = serde_json::from_value(body).context("reading the service's answer")?;
    let title = format!("{}@{}", receipt.name, receipt.version);
    print::receipt(&receipt, picture, &format!("{base}/models puts {title} to use"))
}

fn refuse(args: &AddArgs, status: StatusCode, body: &Value) -> anyhow::Result<()> {
    let error = &body["error"];
    let (Some(code), Some(message)) = (error["code"].as_str(), error["message"].as_str()) else {
        bail!("{} was not added: the service answered {status}", args.file.display())
    };
    if args.json {
        println!("{}", json!({ "error": { "code": code, "message": message } }));
    }
    bail!("{} was not added: {message} ({code})", args.file.display())
}

/// A form's body, in pieces that are sent one after another.
struct Form {
    boundary: String,
    pieces: Vec<Bytes>,
}

/// The model as a form (RFC 7578): what is said of it first, so that what cannot be read is refused at once.
fn form(args: &AddArgs, offer: Offer) -> Form {
    // Long enough that no file has it in it.
    let boundary = format!("vigie-{:032x}", rand::random::<u128>());
    let mut pieces = Vec::new();
    let mut part = |disposition: &str, content: Bytes| {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        pieces.extend([Bytes::from(head), content, Bytes::from_static(b"\r\n")]);
    };
    for (field, text) in offer.wishes.fields() {
        part(&format!("name=\"{field}\""), text.into());
    }
    part("name=\"source\"", offer.source.into());
    if let Some(licence) = &args.licence {
        part("name=\"licence\"", licence.clone().into());
    }
    if let Some(picture) = offer.picture {
        part("name=\"picture\"; filename=\"picture\"", picture.into());
    }
    part("name=\"file\"; filename=\"model.onnx\"", offer.onnx.into());
    pieces.push(format!("--{boundary}--\r\n").into());
    Form { boundary, pieces }
}
