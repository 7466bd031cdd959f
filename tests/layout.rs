//! The rules of the tree (ARCHITECTURE.md, "Rules"), held against the source itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the source has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each part of `src/` may use of the others. Never upward.
const MAY_USE: &[(&str, &[&str])] = &[
    ("signalling", &["blobs", "cluster", "container", "ids", "jobs", "models", "shutdown", "telemetry"]),
    (
        "live",
        &[
            "cluster",
            "codec",
            "frame",
            "ids",
            "imgproc",
            "inference",
            "mailbox",
            "models",
            "pipeline",
            "rtp",
            "shutdown",
            "telemetry",
        ],
    ),
    (
        "files",
        &[
            "blobs",
            "cluster",
            "codec",
            "frame",
            "imgproc",
            "inference",
            "jobs",
            "models",
            "pipeline",
            "telemetry",
        ],
    ),
    ("oip", &["cluster", "inference", "models", "pipeline", "telemetry"]),
    ("trials", &["blobs", "cluster", "inference", "models"]),
    ("jobs", &["blobs", "container", "telemetry"]),
    ("blobs", &[]),
    ("cluster", &["ids", "measures"]),
    ("serving", &["blobs", "inference", "measures", "models", "pipeline", "telemetry"]),
    ("pipeline", &["frame", "imgproc", "inference", "measures", "models"]),
    ("models", &["blobs", "frame", "ids", "inference"]),
    ("inference", &[]),
    ("measures", &[]),
    ("imgproc", &["frame"]),
    ("codec", &["container", "frame"]),
    ("container", &[]),
    ("rtp", &["frame"]),
    ("telemetry", &[]),
    ("frame", &[]),
    ("ids", &[]),
    ("mailbox", &[]),
    ("shutdown", &[]),
];

/// Each outside engine is named in one place.
const NAMED_IN: &[(&str, &[&str])] = &[
    ("opencv::", &["imgproc.rs", "imgproc/"]),
    ("ffmpeg_sys_next", &["codec/"]),
    ("ort::", &["inference/ort.rs", "inference/ort/"]),
    ("seccompiler::", &["models/trial/confine.rs"]),
    ("nix::", &["models/trial/confine.rs"]),
    ("webrtc::", &["live/peer/"]),
    ("rtc::", &["live/peer/"]),
    ("str0m::", &["load/"]),
    ("async_nats::", &["jobs/queue/nats"]),
    ("object_store::", &["blobs/"]),
    ("jsonwebtoken::", &["signalling/auth.rs"]),
    ("tokio_rustls::", &["signalling/tls.rs", "signalling/server.rs", "load/"]),
    (
        "axum",
        &[
            "signalling/",
            "live/control.rs",
            "live/whip.rs",
            "files/control.rs",
            "oip/control.rs",
            "trials/control.rs",
            "commands/",
            "fuzz/",
        ],
    ),
];

/// Modules that do no I/O, spawn nothing and are given the time.
const PURE: &[&str] = &[
    "cluster/placement.rs",
    "container.rs",
    "inference/batcher.rs",
    "inference/rows.rs",
    "inference/turns.rs",
    "live/governor.rs",
    "live/headroom.rs",
    "live/sdp.rs",
    "live/settings.rs",
    "measures.rs",
    "models/check/",
    "models/eval/",
    "models/heads/",
    "models/traffic",
    "oip/answer.rs",
    "oip/coding.rs",
    "oip/metadata.rs",
    "oip/numbers.rs",
    "oip/request.rs",
    "oip/shapes.rs",
    "oip/tensors.rs",
    "pipeline/agree.rs",
    "pipeline/labels.rs",
    "pipeline/track/",
    "rtp/",
    "serving/plan.rs",
    "serving/watch.rs",
];

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let relative = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let all: Vec<_> = found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect();
    let tests: BTreeSet<String> = all.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    all.into_iter().filter(|(path, _)| !tests.contains(path)).collect()
}

/// The files of the modules that `path` compiles for its tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let folder = path.trim_end_matches("mod.rs").trim_end_matches(".rs").trim_end_matches('/');
    let declared = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split_once(';'));
    declared.map(|(name, _)| format!("{folder}/{name}.rs")).collect()
}

/// The code without comments and without its tests.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn mentions(code: &str, name: &str) -> bool {
    let starts_word =
        |at: usize| at == 0 || !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    code.match_indices(name).any(|(at, _)| starts_word(at))
}

#[test]
fn parts_use_only_what_stands_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let part = path.split(['/', '.']).next().unwrap();
        let Some(may_use) = allowed.get(part) else { continue };
        let code = code(&text);
        for (at, _) in code.match_indices("crate::") {
            let used: String =
                code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if used != part && used.starts_with(char::is_lowercase) && !may_use.contains(&used.as_str()) {
                wrong.insert(format!("{path} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_outside_engine_is_named_in_one_place() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let code = code(&text);
        for (engine, places) in NAMED_IN {
            let at_home = places.iter().any(|place| path.starts_with(place));
            if !at_home && mentions(&code, engine) {
                wrong.push(format!("{path} names {engine}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_modules_neither_look_at_the_clock_nor_start_anything() {
    let forbidden = ["Instant::now", "SystemTime::now", "thread::spawn", "tokio::", "std::fs", "std::net"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if PURE.iter().any(|pure| path.starts_with(pure)) {
            let code = code(&text);
            wrong.extend(forbidden.iter().filter(|f| code.contains(**f)).map(|f| format!("{path} has {f}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(p, _)| p).collect();
    assert!(silent.is_empty(), "no //! at the top of {silent:?}");
}

#[test]
fn documents_name_only_files_and_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metrics = fs::read_to_string(root.join("src/telemetry/metrics.rs")).unwrap();
    let mut wrong = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/security.md", "docs/weather.md"]
    {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let folders = [
                "src/", "static/", "tests/", "benches/", "models/", "docs/", "scripts/", "turn/", "k8s/",
                "fuzz/",
            ];
            if folders.iter().any(|folder| quoted.starts_with(folder)) && !root.join(quoted).exists() {
                wrong.push(format!("{document}: {quoted}"));
            }
            if quoted.starts_with("vigie_") && !metrics.contains(&format!("\"{quoted}\"")) {
                wrong.push(format!("{document}: {quoted}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `docs/security.md` names the test of a rule as `tests/FILE`: `NAME`.
#[test]
fn the_tests_that_the_security_review_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let quoted: Vec<&str> = text.split('`').collect();
    let mut named = 0;
    // What is quoted stands at the odd places.
    for at in (1..quoted.len().saturating_sub(2)).step_by(2) {
        let (file, between, name) = (quoted[at], quoted[at + 1], quoted[at + 2]);
        if between == ": " && file.starts_with("tests/") {
            let test = fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("there is no {file}"));
            assert!(test.contains(&format!("fn {name}()")), "{file} has no test {name}");
            named += 1;
        }
    }
    assert!(named >= 10, "only {named}: is the table written otherwise?");
}

#[test]
fn unsafe_code_stands_where_the_security_review_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let (_, section) = text.split_once("\n## `unsafe`\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `src/")?.split_once("` | "));
    let listed: BTreeMap<String, usize> = rows
        .map(|(file, rest)| (file.to_owned(), rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let uses = |text: &str| {
        let lines = text.lines().map(|line| line.split("//").next().unwrap());
        lines.flat_map(|line| line.split(|c| !is_word(c))).filter(|word| *word == "unsafe").count()
    };
    let found = sources().into_iter().map(|(path, text)| (path, uses(&text))).filter(|(_, count)| *count > 0);
    assert_eq!(
        found.collect::<BTreeMap<_, _>>(),
        listed,
        "docs/security.md lists the uses and their reasons"
    );
}

/// Every file of the page, with its name.
fn page() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("static"), &mut found);
    found.into_iter().filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?))).collect()
}

#[test]
fn pages_show_text_as_text() {
    let page = page();
    assert!(page.len() > 10);
    for (path, text) in page {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!text.contains(way), "{} has {way}", path.display());
        }
    }
}

#[test]
fn there_are_no_cookies() {
    for (path, text) in sources() {
        assert!(!text.to_lowercase().contains("set-cookie") && !text.contains("SET_COOKIE"), "{path}");
    }
    for (path, text) in page() {
        assert!(!text.contains("document.cookie"), "{}", path.display());
    }
}

#[test]
fn the_reference_names_every_route_and_every_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let parts = ["api", "whip", "oip", "models", "rollout"].map(|name| read(&format!("docs/{name}.md")));
    let reference = parts.concat();
    let mut missing = BTreeSet::new();
    for (path, text) in sources() {
        if path.starts_with("signalling/") {
            // A parameter may have another name there, and a route stands among others of its path.
            let routes = text.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
            let starts = routes.map(|route| route.split('{').next().unwrap_or_default());
            missing.extend(starts.filter(|start| !reference.contains(start)).map(str::to_owned));
        }
        if ["signalling/error.rs", "signalling/uploads.rs", "cluster/whip.rs"].contains(&path.as_str()) {
            let codes = code(&text);
            let codes =
                codes.lines().filter_map(|line| line.trim().strip_suffix("\",")?.split("=> \"").nth(1));
            let codes = codes.filter(|code| code.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            missing.extend(codes.filter(|code| !reference.contains(&format!("`{code}`"))).map(str::to_owned));
        }
    }
    assert!(missing.is_empty(), "docs/api.md lacks {missing:#?}");
}

#[test]
fn images_are_built_from_all_that_the_source_includes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let (dockerfile, let_in) = (read("Dockerfile"), read(".dockerignore"));
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for marker in ["include_bytes!(\"", "include_str!(\"", "#[folder = \""] {
            for rest in text.split(marker).skip(1) {
                let named = rest.split('"').next().unwrap();
                let above = named.matches("../").count();
                let outside = named.trim_start_matches("../").trim_end_matches('/');
                // A file of `src/a/b/` is inside up to `../../`; an embedded folder stands beside `src/`.
                let is_inside = above < path.split('/').count() && !marker.starts_with('#');
                let is_in = |folder: &Path| {
                    let folder = folder.display();
                    let_in.lines().any(|line| line == format!("!{folder}"))
                        && dockerfile.contains(&format!("COPY {folder} {folder}"))
                };
                if !is_inside && !Path::new(outside).ancestors().any(is_in) {
                    wrong.push(format!("{path} includes {outside}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not in the Dockerfile and .dockerignore: {wrong:#?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let top = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut wrong = Vec::new();
    for document in docs.chain(top).filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_elsewhere = target.is_empty() || target.contains(':');
            if !is_elsewhere && !document.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
