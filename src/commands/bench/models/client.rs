//! A service with a registry of its own, and what is asked of it over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::bulk;
use crate::cli::InferenceArgs;
use crate::commands::bench::service::{Service, add_inference};

/// How long a version may take to be served, or to go.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often that is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const BOUNDARY: &str = "7b1f0c4e9d2a8365";

/// A running `vigie serve` whose store and models' folder end with it.
pub struct Registry {
    pub service: Service,
    /// Those of the measurement, with the models' folder of this service.
    pub inference: InferenceArgs,
    folder: TempDir,
}

impl Registry {
    pub async fn start(inference: &InferenceArgs, more: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut inference = inference.clone();
        inference.models = link_models(&inference.models, folder.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--log", "error"]);
        command.args(["--video-jobs", "0", "--store"]).arg(folder.path().join("store")).args(more);
        add_inference(&mut command, &inference);
        Ok(Self { service: Service::run(command).await?, inference, folder })
    }

    /// What a worker of the same models takes as its `--store`.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Uploads a model and returns what its trial said.
    pub async fn upload(&self, name: &str, onnx: &[u8]) -> anyhow::Result<Value> {
        let mut form = Vec::with_capacity(onnx.len() + 1024);
        for (field, value) in bulk::FIELDS {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n");
            form.extend([head.as_bytes(), value.as_bytes(), b"\r\n"].concat());
        }
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"m.onnx\"\r\n\r\n"
        );
        form.extend(head.into_bytes());
        form.extend(onnx);
        form.extend(format!("\r\n--{BOUNDARY}--\r\n").into_bytes());
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let path = format!("/api/models/{name}");
        let (status, body) = self.ask(Method::POST, &path, &content_type, form.into()).await?;
        ensure!(status.is_success(), "the upload was answered {status}: {body}");
        Ok(body)
    }

    /// Has workers load a version that no session gets.
    pub async fn load_for_nobody(&self, model: &str) -> anyhow::Result<()> {
        let variant = serde_json::json!({ "model": model, "attribute": "bench", "equals": "nobody" });
        self.set_traffic(&serde_json::json!({ "slot": "objects", "variants": [variant] })).await
    }

    /// Gives objects to this version for everybody.
    pub async fn serve(&self, model: &str) -> anyhow::Result<()> {
        self.set_traffic(&serde_json::json!({ "slot": "objects", "stable": model })).await
    }

    async fn set_traffic(&self, traffic: &Value) -> anyhow::Result<()> {
        let body = serde_json::to_vec(traffic)?.into();
        let (status, answer) =
            self.ask(Method::PUT, "/api/traffic/objects", "application/json", body).await?;
        ensure!(status.is_success(), "the traffic was answered {status}: {answer}");
        Ok(())
    }

    pub async fn end_traffic(&self) -> anyhow::Result<()> {
        let (status, answer) = self.ask(Method::DELETE, "/api/traffic/objects", "", Bytes::new()).await?;
        ensure!(status.is_success(), "the traffic's end was answered {status}: {answer}");
        Ok(())
    }

    /// Waits until `name` is loaded, or is not any longer.
    pub async fn until_loaded(&self, name: &str, is_loaded: bool) -> anyhow::Result<()> {
        let began = Instant::now();
        let path = format!("/v2/models/{name}/ready");
        loop {
            let (status, answer) = self.ask(Method::GET, &path, "", Bytes::new()).await?;
            match status {
                StatusCode::OK if is_loaded => return Ok(()),
                StatusCode::NOT_FOUND if !is_loaded => return Ok(()),
                StatusCode::OK | StatusCode::NOT_FOUND => {}
                _ => bail!("{path} was answered {status}: {answer}"),
            }
            ensure!(began.elapsed() < PATIENCE, "{name} is not where it should be after {PATIENCE:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut sender = connect(self.service.address).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.service.address.to_string())
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let answer = serde_json::from_slice(&body);
        Ok((status, answer.unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()))))
    }
}

pub type Sender = http1::SendRequest<Full<Bytes>>;

pub async fn connect(address: SocketAddr) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A folder of the same models, in which others can be put.
fn link_models(from: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let to = folder.join("models");
    std::fs::create_dir(&to)?;
    let from = std::fs::canonicalize(from).with_context(|| format!("looking for {}", from.display()))?;
    for entry in std::fs::read_dir(&from)? {
        let entry = entry?;
        // Fetched ones are another registry's.
        if !entry.file_name().to_string_lossy().starts_with('.') {
            std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(to)
}
