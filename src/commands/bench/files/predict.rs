//! `/predict` from the outside, against the same models in plain loops on the same picture.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

use super::FilesArgs;
use crate::commands::bench::bare::BareLoops;
use crate::commands::bench::machine::cpu_seconds;
use crate::commands::bench::service::Service;
use crate::commands::bench::summary::Percentiles;
use crate::files::image;
use crate::files::still::StillReport;
use crate::frame::{Kind, Picture};
use crate::load::poster::BUILT_IN_PICTURE;
use crate::models::manifest::Task;

const CLIENTS: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize)]
pub struct Predict {
    /// Of the picture that is posted.
    bytes: usize,
    faces: usize,
    one_client_ms: Percentiles,
    /// All models that the picture needs, one after another, inputs made beforehand.
    bare_ms: Percentiles,
    p50_over_bare_ms: f64,
    /// Pictures a second of sixteen clients.
    clients_per_s: f64,
    clients_ms: Percentiles,
    /// Pictures a second of one bare loop a lane.
    bare_per_s: f64,
    ratio_to_bare: f64,
    /// Processor time a picture, with sixteen clients: of the service, of the clients beside it, and of the bare loops.
    service_cpu_ms: f64,
    clients_cpu_ms: f64,
    bare_cpu_ms: f64,
}

pub async fn measure(args: &FilesArgs) -> anyhow::Result<Predict> {
    let jpeg = Bytes::from_static(BUILT_IN_PICTURE);
    let picture = image::decode(&jpeg)?;
    println!("\n/predict, a JPEG of {}x{}, {} bytes", picture.width, picture.height, jpeg.len());
    let service = Service::start(&args.inference, 1.0).await?;
    let first = post(&mut connect(service.address).await?, &jpeg).await?;
    let faces = first.detections.iter().filter(|found| found.kind == Kind::Face).count();
    let mut loops = load(args, &picture)?;

    // In turns, so that all meet the same machine.
    let rounds = args.rounds.max(1) as u32;
    let turn = Duration::from_secs(args.seconds) / rounds;
    let needs = move |task| task != Task::Gender || faces > 0;
    let (mut one_client, mut bare, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let (mut clients_per_s, mut bare_per_s) = (0.0, 0.0);
    let (mut service_cpu, mut clients_cpu, mut bare_cpu) = (0.0, 0.0, 0.0);
    clients(service.address, CLIENTS, &jpeg, WARM_UP).await?;
    for _ in 0..rounds {
        one_client.extend(clients(service.address, 1, &jpeg, turn).await?.0);
        let (latencies, back) = blocking(loops, move |loops| loops.latencies(turn)).await?;
        bare.extend(latencies);
        let (service_before, own_before) = (service.cpu_seconds()?, cpu_seconds());
        let (latencies, per_s) = clients(service.address, CLIENTS, &jpeg, turn).await?;
        many.extend(latencies);
        clients_per_s += per_s / f64::from(rounds);
        service_cpu += service.cpu_seconds()? - service_before;
        let own = cpu_seconds();
        clients_cpu += own - own_before;
        let (per_s, back) = blocking(back, move |loops| loops.rate(turn, needs)).await?;
        bare_per_s += per_s / f64::from(rounds);
        bare_cpu += cpu_seconds() - own;
        loops = back;
    }
    let ms_each = |seconds: f64, count: f64| seconds * 1000.0 / count.max(1.0);
    let service_cpu_ms = ms_each(service_cpu, many.len() as f64);
    let clients_cpu_ms = ms_each(clients_cpu, many.len() as f64);
    let bare_cpu_ms = ms_each(bare_cpu, bare_per_s * args.seconds as f64);
    service.stop().await?;

    let (one_client_ms, bare_ms) = (Percentiles::of(one_client), Percentiles::of(bare));
    let measured = Predict {
        bytes: jpeg.len(),
        faces,
        p50_over_bare_ms: one_client_ms.p50 - bare_ms.p50,
        one_client_ms,
        bare_ms,
        clients_per_s,
        clients_ms: Percentiles::of(many),
        bare_per_s,
        ratio_to_bare: clients_per_s / bare_per_s,
        service_cpu_ms,
        clients_cpu_ms,
        bare_cpu_ms,
    };
    println!("  one client               {}", measured.one_client_ms);
    println!("  bare models in turn      {}", measured.bare_ms);
    println!("  p50 over bare            {:>+7.1} ms", measured.p50_over_bare_ms);
    println!("  {CLIENTS} clients               {:>7.1} pictures/s", measured.clients_per_s);
    println!("                           {}", measured.clients_ms);
    println!("  bare loops               {:>7.1} pictures/s", measured.bare_per_s);
    println!("  clients / bare           {:>7.2}", measured.ratio_to_bare);
    println!(
        "  CPU a picture            {:>7.1} ms in the service, {:.2} in its clients, {:.1} in bare loops",
        measured.service_cpu_ms, measured.clients_cpu_ms, measured.bare_cpu_ms
    );
    Ok(measured)
}

fn load(args: &FilesArgs, picture: &Picture) -> anyhow::Result<BareLoops> {
    BareLoops::load(&args.inference, std::slice::from_ref(picture))
}

async fn blocking<T: Send + 'static>(
    mut loops: BareLoops,
    run: impl FnOnce(&mut BareLoops) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<(T, BareLoops)> {
    tokio::task::spawn_blocking(move || Ok((run(&mut loops)?, loops))).await?
}

type Sender = http1::SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn post(sender: &mut Sender, picture: &Bytes) -> anyhow::Result<StillReport> {
    let request = Request::post("/predict").header(HOST, "localhost").body(Full::new(picture.clone()))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "/predict answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

/// What `count` clients see who each post one picture after another: latencies, and pictures a second.
async fn clients(
    address: SocketAddr,
    count: usize,
    picture: &Bytes,
    duration: Duration,
) -> anyhow::Result<(Vec<Duration>, f64)> {
    let began = Instant::now();
    let picture = Arc::new(picture.clone());
    let client = |picture: Arc<Bytes>| async move {
        let mut sender = connect(address).await?;
        let mut latencies = Vec::new();
        while began.elapsed() < duration {
            let started = Instant::now();
            post(&mut sender, &picture).await?;
            latencies.push(started.elapsed());
        }
        anyhow::Ok(latencies)
    };
    let clients: Vec<_> = (0..count).map(|_| tokio::spawn(client(Arc::clone(&picture)))).collect();
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    let per_s = latencies.len() as f64 / began.elapsed().as_secs_f64();
    Ok((latencies, per_s))
}
