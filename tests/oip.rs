//! The Open Inference Protocol, as strangers send it: what is too large, broken, slow to say what it wants or not allowed
//! is refused with a stable code, and the next request is answered. tests/clients has a known client do the rest.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::cluster::{Process, vigie};
use common::process::{Reply, Service, read_reply, request};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use vigie::inference::batcher::ModelId;
use vigie::inference::engine::Engine;
use vigie::inference::ort::OrtEngine;
use vigie::inference::service::{Options, Service as Lanes};
use vigie::inference::tensor::{Tensor, TensorData};
use vigie::models::convert::onnx::{Element, OnnxGraph, Side};
use vigie::oip::error::OipError;
use vigie::oip::runner::Runner;
use vigie::pipeline::recognise::{Model, ModelSet};

const TOKEN: &str = "the-token-of-the-tests-own-cluster";
const PIXELS: usize = 224 * 224 * 3;
const INFER: &str = "/v2/models/faceres/infer";

/// A request for the smallest model, and the length of its JSON.
fn valid() -> (Vec<u8>, usize) {
    let json = json!({ "id": "x", "parameters": { "binary_data_output": true }, "inputs": [{
        "name": "input", "datatype": "UINT8", "shape": [1, 224, 224, 3],
        "parameters": { "binary_data_size": PIXELS } }] });
    let json = serde_json::to_vec(&json).unwrap();
    ([json.as_slice(), &[90; PIXELS]].concat(), json.len())
}

fn infer(address: SocketAddr, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    request(address, "POST", INFER, headers, body)
}

fn assert_answered(address: SocketAddr) {
    let (body, length) = valid();
    let reply = infer(address, &[("Inference-Header-Content-Length", &length.to_string())], &body);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
    assert_eq!(json["id"], "x");
    let output = &json["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("FP32"), &json!([1, 1])));
    let value = f32::from_le_bytes(reply.body[length..].try_into().unwrap());
    assert!((0.0..=1.0).contains(&value), "{value}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_cannot_be_taken_is_refused_by_its_code_and_harms_nothing() {
    let service = Service::start(&[]);
    let address = service.address;
    assert_answered(address);
    let (body, length) = valid();
    let length = length.to_string();
    let json_length = ("Inference-Header-Content-Length", length.as_str());
    let bomb = gzip(&vec![b' '; 80 << 20]);
    let deep = format!(r#"{{"inputs":{}1{}}}"#, "[".repeat(200_000), "]".repeat(200_000)).into_bytes();
    let noise: Vec<u8> =
        (0..100_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
    let cases: &[Case<'_>] = &[
        (&[], b"", 400, "invalid_request"),
        (&[], b"{}", 400, "invalid_request"),
        (&[], &noise, 400, "invalid_request"),
        (&[], &deep, 400, "invalid_request"),
        (&[("Inference-Header-Content-Length", "99999999")], &body, 400, "invalid_request"),
        (&[("Inference-Header-Content-Length", "-1")], &body, 400, "invalid_request"),
        (&[("Inference-Header-Content-Length", "18446744073709551616")], &body, 400, "invalid_request"),
        (&[json_length], &body[..body.len() - 1], 400, "wrong_byte_count"),
        (&[json_length], &[body.as_slice(), &[0]].concat(), 400, "wrong_byte_count"),
        (&[("Content-Length", "99999999")], b"", 413, "too_large"),
        (&[json_length, ("Content-Encoding", "br")], &body, 415, "unsupported_encoding"),
        (&[json_length, ("Content-Encoding", "gzip")], &body, 400, "invalid_request"),
        (&[("Content-Encoding", "gzip")], &bomb, 413, "too_large"),
    ];
    for (at, (headers, body, status, code)) in cases.iter().enumerate() {
        let reply = infer(address, headers, body);
        assert_eq!(reply.status, *status, "case {at}: {}", String::from_utf8_lossy(&reply.body));
        let said = reply.json();
        assert_eq!(said["code"], *code, "case {at}: {said}");
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "case {at}: {said}");
    }
    for (method, path, status, code) in [
        ("GET", "/v2/models/nonsense", 404, "unknown_model"),
        ("POST", "/v2/models/faceres/versions/99/infer", 404, "unknown_version"),
        ("GET", "/v2/models/%00/ready", 404, "unknown_model"),
        ("GET", "/v2/models/%ff", 400, "invalid_request"),
        ("GET", INFER, 405, "method_not_allowed"),
        ("GET", "/v2/nonsense", 404, "not_found"),
    ] {
        let reply = request(address, method, path, &[], b"");
        assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)), "{method} {path}");
    }
    // One that goes away in the middle of its body.
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST {INFER} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 150000\r\n\r\n{{").unwrap();
    drop(stream);
    assert_answered(address);
}

#[test]
fn bodies_come_in_pieces_too() {
    let service = Service::start(&[]);
    let (body, length) = valid();
    let address = service.address;
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {INFER} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Inference-Header-Content-Length: {length}\r\n\r\n"
    )
    .unwrap();
    for piece in body.chunks(7_000) {
        write!(stream, "{:x}\r\n", piece.len()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let reply = read_reply(&mut stream);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(service.metric("vigie_oip_requests_total{outcome=\"answered\"}"), 1.0);
}

#[test]
fn a_worker_serves_openly_only_where_it_is_told_to() {
    let mut command = vigie();
    command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    let refused = command.env_remove("VIGIE_CLUSTER_TOKEN").output().unwrap();
    assert!(!refused.status.success(), "without --oip it wants a cluster token");

    let worker = Process::start(command.env("VIGIE_CLUSTER_TOKEN", TOKEN));
    let (body, length) = valid();
    let length = length.to_string();
    let json_length = ("Inference-Header-Content-Length", length.as_str());
    for path in ["/v2", "/v2/health/ready", "/v2/models/faceres"] {
        assert_eq!(request(worker.address, "GET", path, &[], b"").status, 401, "{path}");
    }
    assert_eq!(infer(worker.address, &[json_length], &body).status, 401);
    let bearer = format!("Bearer {TOKEN}");
    let shown = ("Authorization", bearer.as_str());
    assert_eq!(infer(worker.address, &[json_length, shown], &body).status, 200);
    // What a front says of a token's tasks is held to.
    let reply = infer(worker.address, &[json_length, shown, ("Vigie-Tasks", "faces,objects")], &body);
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("task_not_allowed")));
}

/// Adds the sizes to the picture's first two values.
fn two_inputs() -> Vec<u8> {
    let mut graph = OnnxGraph::default();
    let batch = Side::Named("batch");
    graph.input("size", Element::Int64, &[batch, Side::Fixed(2)]);
    graph.input("picture", Element::Float, &[batch, Side::Fixed(2)]);
    let size = graph.node("Cast", &["size"], &[("to", vigie::models::convert::onnx::Attribute::Int(1))]);
    graph.named_node("Add", &["picture", &size], &[], &["sum"]);
    graph.output("sum", Element::Float, &[batch, Side::Fixed(2)]);
    graph.into_bytes()
}

#[tokio::test]
async fn a_model_with_two_inputs_is_given_both() {
    let runtime = common::runtime();
    let lanes = Lanes::start(Options::default(), Arc::new(())).unwrap();
    let engine = OrtEngine::from_memory(&runtime, &two_inputs()).unwrap();
    lanes.install(ModelId(1), vec![Box::new(engine) as Box<dyn Engine>], 8).unwrap();
    let models = ModelSet::default();
    let (_, manifest) = common::model("blazeface");
    models.replace(Model::new(ModelId(1), manifest));
    let runner = Runner::new(lanes.handle(), models, 1);
    let model = runner.find("blazeface", None).unwrap();
    let names: Vec<&str> = model.ports.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["size", "picture"]);
    let ask = |rows: usize, first: i64| {
        let size = TensorData::I64((0..2 * rows as i64).map(|index| first + index).collect());
        let picture = TensorData::F32(vec![0.5; 2 * rows]);
        runner.run(&model, vec![Tensor::new(&[rows, 2], size), Tensor::new(&[rows, 2], picture)])
    };
    // At the same time, so that they might have met in a batch.
    let (one, two) = tokio::join!(ask(1, 640), ask(2, 10));
    let values = |completed: &vigie::inference::service::Completed| {
        completed.outputs.find("sum").unwrap().as_f32().unwrap().to_vec()
    };
    assert_eq!(values(&one.unwrap()), [640.5, 641.5]);
    assert_eq!(values(&two.unwrap()), [10.5, 11.5, 12.5, 13.5]);
    // In the wrong order the engine refuses them, and the lane lives on.
    let swapped = vec![Tensor::f32(&[1, 2], vec![0.0; 2]), Tensor::new(&[1, 2], TensorData::I64(vec![1, 2]))];
    let wrong = runner.run(&model, swapped).await.unwrap_err();
    assert!(matches!(wrong, OipError::Failed { .. }), "{wrong:?}");
    assert_eq!(values(&ask(1, 1).await.unwrap()), [1.5, 2.5]);
    assert!(runner.enter(300 << 20).is_err(), "more memory than all requests together may have");
}
