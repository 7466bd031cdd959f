//! `static/openapi.json` against the routes of the front: nothing is left out, and nothing is told that is not there.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::process::{Service, request};
use serde_json::Value;

const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

fn document() -> Value {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("static/openapi.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Path → methods, as they are told.
fn told() -> BTreeMap<String, BTreeSet<String>> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let methods = |value: &Value| value.as_object().unwrap().keys().cloned().collect();
    paths.iter().map(|(path, value)| (path.clone(), methods(value))).collect()
}

/// The paths of every `.route("…"` of the front.
fn routed() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/signalling");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs"));
    let mut paths = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(source).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for rest in code.split(".route(").skip(1) {
            let path = rest.trim_start().strip_prefix('"').expect("a route's path stands where it is made");
            paths.insert(path.split('"').next().unwrap().to_owned());
        }
    }
    paths
}

#[test]
fn every_route_is_told_and_none_that_is_not_there() {
    assert_eq!(told().into_keys().collect::<BTreeSet<_>>(), routed());
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let known: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(METHODS.contains(&method.as_str()), "{method} {path}");
            assert!(known.contains(operation["tags"][0].as_str().unwrap()), "{method} {path}");
            let named: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let wanted: BTreeSet<&str> =
                path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
            assert_eq!(named, wanted, "{method} {path}");
        }
    }
}

/// What no request of the test's can do: they would be answered in their own way.
const UPGRADES: [&str; 1] = ["/api/session"];

#[test]
fn the_service_has_the_methods_that_are_told_and_no_others() {
    let service = Service::start(&[]);
    for (path, told) in told() {
        if UPGRADES.contains(&path.as_str()) {
            continue;
        }
        let filled: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for method in METHODS {
            // Whoever has GET has HEAD, and the viewers' addresses answer GET by saying that there is nothing to get.
            if method == "head" || path.starts_with("/whip") || path.starts_with("/whep") {
                continue;
            }
            let reply = request(service.address, &method.to_uppercase(), &filled, &[], b"");
            assert_eq!(reply.status != 405, told.contains(method), "{method} {path}: {}", reply.head);
        }
    }
    let page = service.get("/docs");
    assert!(page.contains("js/docs.js") && page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(service.get("/openapi.json").to_lowercase().contains("content-type: application/json"));
}
