//! What `vigie models add` prints of a model that was added, here or elsewhere.

use std::io::Write;

use super::print_table;
use crate::models::receipt::{FileFacts, Receipt};

/// Prints a receipt; `picture` is where what was found is drawn, `use_it` how one goes on.
pub fn receipt(receipt: &Receipt, picture: Option<String>, use_it: &str) -> anyhow::Result<()> {
    let Receipt { name, version, was_known, manifest, file, trial, notes, took_ms } = receipt;
    let title = format!("{name}@{version}");
    match was_known {
        true => println!("{title} is this very file already"),
        false => println!("added as {title}"),
    }
    let size = format!("{}x{}", manifest.input.size, manifest.input.height.unwrap_or(manifest.input.size));
    let mut rows = vec![
        ["task".to_owned(), manifest.task.name().to_owned()],
        ["head".to_owned(), manifest.head.name().to_owned()],
        ["labels".to_owned(), some_of(&manifest.labels)],
        ["input".to_owned(), size],
        ["file".to_owned(), describe(file)],
        ["checked in".to_owned(), format!("{:.0} ms", took_ms.check)],
        [
            "tried in".to_owned(),
            format!(
                "{:.0} ms: loaded in {:.0} ms, first run {:.0} ms",
                took_ms.trial, trial.load_ms, trial.first_run_ms
            ),
        ],
        [
            "a picture takes".to_owned(),
            format!("{:.1} ms (median of {}, one thread)", trial.p50_ms, trial.runs),
        ],
        ["memory".to_owned(), format!("{:.0} MB at most", trial.peak_bytes as f64 / 1e6)],
    ];
    for finding in trial.findings.iter().take(10) {
        let place = finding.bbox.map(|[x, y, w, h]| format!(" at {x:.0}, {y:.0}, {w:.0} wide, {h:.0} high"));
        let line = format!("{} {:.0} %{}", finding.label, finding.score * 100.0, place.unwrap_or_default());
        rows.push(["found".to_owned(), line]);
    }
    if trial.findings.is_empty() {
        rows.push(["found".to_owned(), "nothing in the trial's picture; --picture tries another".to_owned()]);
    }
    rows.extend(picture.map(|place| ["drawn".to_owned(), place]));
    rows.extend(notes.iter().map(|note| ["note".to_owned(), note.clone()]));
    rows.push(["use it".to_owned(), use_it.to_owned()]);
    print_table(&rows)?;
    std::io::stdout().flush()?;
    Ok(())
}

fn describe(file: &FileFacts) -> String {
    let producer = if file.producer.is_empty() { "unknown" } else { &file.producer };
    format!(
        "{:.1} MB, {} nodes, {:.2} million parameters, operator set {}, made by {producer}",
        file.bytes as f64 / 1e6,
        file.nodes,
        file.parameters as f64 / 1e6,
        file.opset
    )
}

fn some_of(labels: &[String]) -> String {
    let first = labels.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if labels.len() > 5 { format!("{first} … ({})", labels.len()) } else { first }
}
