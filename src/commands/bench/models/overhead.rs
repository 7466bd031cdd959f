//! A request by the Open Inference Protocol against a bare call of ONNX Runtime on the same input: to a worker, and
//! through a front, in turns, so that all meet the same machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::HOST;
use serde::Serialize;
use serde_json::json;
use tokio::process::Command;

use super::ModelsBenchArgs;
use super::bulk::{self, Sides};
use super::client::{Registry, Sender, connect};
use crate::commands::bench::service::{Service, add_inference};
use crate::commands::bench::summary::Percentiles;
use crate::commands::recognition::{find_models, load_runtime};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, OrtEngine};
use crate::inference::service::lower_priority;
use crate::inference::tensor::{Element, Outputs, Tensor, TensorData};
use crate::oip::tensors::datatype;

/// Requests before those that count.
const WARM_UP: u64 = 20;

/// The model that is made up on the spot.
const SMALL: &str = "small";
const SMALL_BYTES: usize = 1_000_000;
const SMALL_SIDES: Sides = Sides { input: 64, cell: 16 };

/// What one model's requests took.
#[derive(Clone, Debug, Serialize)]
pub struct Overhead {
    model: String,
    input_bytes: usize,
    output_bytes: usize,
    bare_ms: Percentiles,
    worker_ms: Percentiles,
    front_ms: Percentiles,
    /// The medians of what each request took beyond the bare call beside it.
    worker_over_bare_ms: f64,
    front_over_bare_ms: f64,
    /// Where the worker's time went, on average.
    worker_stages_ms: BTreeMap<String, f64>,
}

pub async fn measure(args: &ModelsBenchArgs) -> anyhow::Result<Vec<Overhead>> {
    println!("\nOpen Inference Protocol, binary tensors, {} requests in turns", args.requests);
    let mut measured = Vec::new();
    for name in &args.asked {
        measured.push(measure_one(args, name).await.with_context(|| format!("asking {name}"))?);
    }
    Ok(measured)
}

async fn measure_one(args: &ModelsBenchArgs, name: &str) -> anyhow::Result<Overhead> {
    let registry = Registry::start(&args.inference, &[]).await?;
    let (path, side) = if name == SMALL {
        registry.upload(name, &bulk::model_of(SMALL_SIDES, SMALL_BYTES, 1)).await?;
        registry.serve(&format!("{name}@1")).await?;
        registry.until_loaded(name, true).await?;
        (registry.store().join(format!("models/{name}/1/model.onnx")), SMALL_SIDES.input)
    } else {
        let mut found = find_models(&args.inference)?.into_iter();
        let (manifest, path) = found
            .find(|(manifest, _)| manifest.name == *name)
            .with_context(|| format!("{name} is not among the models in use"))?;
        (path, manifest.input.size as usize)
    };
    let runtime = load_runtime(&args.inference)?;
    let device: Device = args.inference.device.parse()?;
    let mut engine = OrtEngine::load(&runtime, &path, device, args.inference.lane_threads)?;
    let input = sample(&engine, side)?;
    let body = request(&engine, name, &input)?;

    let worker = start_worker(&registry).await?;
    let mut direct = connect(worker.models).await?;
    let mut through = connect(registry.service.address).await?;
    let (mut bare, mut straight, mut fronted) = (Vec::new(), Vec::new(), Vec::new());
    let (mut outputs, mut output_bytes) = (Outputs::default(), 0);
    for turn in 0..args.requests + WARM_UP {
        let took;
        (engine, outputs, took) = run_bare(engine, &input, outputs).await?;
        let (direct_took, bytes) = ask(&mut direct, name, &body).await?;
        let (front_took, _) = ask(&mut through, name, &body).await?;
        output_bytes = bytes;
        if turn >= WARM_UP {
            bare.push(took);
            straight.push(direct_took);
            fronted.push(front_took);
        }
    }
    let stages = worker.stages().await?;
    worker.service.stop().await?;
    registry.service.stop().await?;
    let beyond = |took: &[Duration]| {
        let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
        Percentiles::of_ms(took.iter().zip(&bare).map(|(took, bare)| ms(took) - ms(bare))).p50
    };
    let measured = Overhead {
        model: name.to_owned(),
        input_bytes: input.data.as_bytes().len(),
        output_bytes,
        worker_over_bare_ms: beyond(&straight),
        front_over_bare_ms: beyond(&fronted),
        bare_ms: Percentiles::of(bare),
        worker_ms: Percentiles::of(straight),
        front_ms: Percentiles::of(fronted),
        worker_stages_ms: stages,
    };
    print(&measured);
    Ok(measured)
}

fn print(measured: &Overhead) {
    let Overhead { model, input_bytes, output_bytes, .. } = measured;
    println!("  {model}: {input_bytes} bytes in, {output_bytes} out");
    let line = |what: &str, times: &Percentiles, over: Option<f64>| {
        let over = over.map(|ms| format!("   {ms:+.2} ms over bare")).unwrap_or_default();
        println!("    {what:<20} p50 {:.2}  p95 {:.2}  p99 {:.2} ms{over}", times.p50, times.p95, times.p99);
    };
    line("bare call", &measured.bare_ms, None);
    line("worker", &measured.worker_ms, Some(measured.worker_over_bare_ms));
    line("through the front", &measured.front_ms, Some(measured.front_over_bare_ms));
    let stages: Vec<String> =
        measured.worker_stages_ms.iter().map(|(stage, ms)| format!("{stage} {ms:.2}")).collect();
    println!("    on the worker, mean  {} ms", stages.join("  "));
}

/// An input of the model's own size, in which there is something; its sides, where they are free, are `picture_side`.
fn sample(engine: &OrtEngine, picture_side: usize) -> anyhow::Result<Tensor> {
    let description = engine.describe();
    let [port] = description.inputs.as_slice() else { anyhow::bail!("it does not have one input") };
    // Free sides are the batch, and the picture's.
    let side = |(axis, &side): (usize, &i64)| match side {
        1.. => side as usize,
        _ if axis == 0 => 1,
        _ => picture_side,
    };
    let shape: Vec<usize> = port.shape.iter().enumerate().map(side).collect();
    let count = shape.iter().product();
    let noise = (0..count).map(|index: usize| (index.wrapping_mul(2_654_435_761) >> 24) as u8);
    Ok(match port.element {
        Some(Element::U8) => Tensor::u8(&shape, noise.collect()),
        Some(Element::F32) => Tensor::f32(&shape, noise.map(|value| f32::from(value) / 255.0).collect()),
        other => anyhow::bail!("its elements are {other:?}"),
    })
}

/// A request's JSON length, and its body.
struct Body {
    json_length: usize,
    bytes: Bytes,
}

fn request(engine: &OrtEngine, name: &str, input: &Tensor) -> anyhow::Result<Body> {
    let port = engine.describe().inputs.into_iter().next().with_context(|| format!("{name} has no input"))?;
    let data: &TensorData = &input.data;
    let json = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": port.name, "datatype": datatype(data.element()), "shape": input.shape,
                     "parameters": { "binary_data_size": data.as_bytes().len() } }],
    });
    let json = serde_json::to_vec(&json)?;
    Ok(Body { json_length: json.len(), bytes: [&json, data.as_bytes()].concat().into() })
}

/// One call on a thread like a lane's.
async fn run_bare(
    mut engine: OrtEngine,
    input: &Tensor,
    mut outputs: Outputs,
) -> anyhow::Result<(OrtEngine, Outputs, Duration)> {
    let input = input.clone();
    let run = move || {
        lower_priority();
        let began = Instant::now();
        engine.run_into(&input, &mut outputs)?;
        anyhow::Ok((engine, outputs, began.elapsed()))
    };
    tokio::task::spawn_blocking(run).await?
}

/// A worker that serves its models openly.
struct OpenWorker {
    service: Service,
    models: SocketAddr,
}

/// One that has the models of `registry`.
async fn start_worker(registry: &Registry) -> anyhow::Result<OpenWorker> {
    let models = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--log", "error"]);
    command.args(["--video-jobs", "0", "--oip", &models.to_string(), "--store"]).arg(registry.store());
    add_inference(&mut command, &registry.inference);
    Ok(OpenWorker { service: Service::run(command).await?, models })
}

/// An address where nobody listens now.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl OpenWorker {
    /// Mean milliseconds of each stage, by its metrics.
    async fn stages(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let mut sender = connect(self.service.address).await?;
        let request = Request::get("/metrics").header(HOST, "localhost").body(Full::default())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let read = |what: &str| {
            let beginning = format!("vigie_oip_seconds_{what}{{stage=\"");
            let lines = text.lines().filter_map(|line| line.strip_prefix(&beginning));
            let parsed = lines.filter_map(|line| {
                let (stage, value) = line.split_once("\"} ")?;
                Some((stage.to_owned(), value.parse::<f64>().ok()?))
            });
            parsed.collect::<BTreeMap<_, _>>()
        };
        let (sums, counts) = (read("sum"), read("count"));
        let mean = |(stage, sum): (String, f64)| {
            let count = counts.get(&stage).copied().unwrap_or_default().max(1.0);
            (stage, sum / count * 1000.0)
        };
        Ok(sums.into_iter().map(mean).collect())
    }
}

/// How long a request took, and how many bytes came back.
async fn ask(sender: &mut Sender, model: &str, body: &Body) -> anyhow::Result<(Duration, usize)> {
    let request = Request::post(format!("/v2/models/{model}/infer"))
        .header(HOST, "localhost")
        .header("inference-header-content-length", body.json_length)
        .body(Full::new(body.bytes.clone()))?;
    sender.ready().await?;
    let began = Instant::now();
    let response = sender.send_request(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    let took = began.elapsed();
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
    Ok((took, answer.len()))
}
