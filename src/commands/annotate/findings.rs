//! What was found, as JSON lines and as CSV, for programs to read.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::sink::Sink;
use crate::files::still::StillReport;
use crate::files::video::Summary;
use crate::pipeline::report::{Attributes, FrameReport, LabelReport};

/// Where what was found is written.
pub struct Findings {
    json: Option<BufWriter<Sink>>,
    csv: Option<BufWriter<Sink>>,
}

/// A line of the JSON file.
#[derive(Serialize)]
struct Line<'a, T> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_s: Option<f64>,
    #[serde(flatten)]
    found: &'a T,
}

/// The line that ends a video.
#[derive(Serialize)]
struct Closing<'a> {
    summary: &'a Summary,
}

impl Findings {
    /// `-` is the standard output.
    pub fn create(json: Option<&Path>, csv: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: Option<&Path>| -> anyhow::Result<Option<BufWriter<Sink>>> {
            let Some(path) = path else { return Ok(None) };
            let sink = Sink::open(path).with_context(|| format!("writing {}", path.display()))?;
            Ok(Some(BufWriter::new(sink)))
        };
        let mut findings = Self { json: open(json)?, csv: open(csv)? };
        if let Some(csv) = &mut findings.csv {
            writeln!(
                csv,
                "file,time_s,id,kind,label,score,x,y,w,h,apparent_gender,gender_score,text,text_score,classes"
            )?;
        }
        Ok(findings)
    }

    fn line<T: Serialize>(&mut self, file: &Path, time_s: Option<f64>, found: &T) -> anyhow::Result<()> {
        if let Some(json) = &mut self.json {
            serde_json::to_writer(&mut *json, &Line { file: &file.to_string_lossy(), time_s, found })?;
            json.write_all(b"\n")?;
        }
        Ok(())
    }

    pub fn picture(&mut self, file: &Path, report: &StillReport) -> anyhow::Result<()> {
        self.line(file, None, report)?;
        let Some(csv) = &mut self.csv else { return Ok(()) };
        for found in &report.detections {
            let row = row(
                file,
                "",
                "",
                found.kind.name(),
                &found.label,
                found.score,
                &found.bbox,
                &found.attributes,
            );
            writeln!(csv, "{row}")?;
        }
        Ok(())
    }

    pub fn frame(&mut self, file: &Path, time_s: f64, report: &FrameReport) -> anyhow::Result<()> {
        self.line(file, Some(time_s), report)?;
        let Some(csv) = &mut self.csv else { return Ok(()) };
        for track in &report.tracks {
            let (time, id) = (format!("{time_s:.3}"), track.id.to_string());
            let row = row(
                file,
                &time,
                &id,
                track.kind.name(),
                &track.label,
                track.score,
                &track.bbox,
                &track.attributes,
            );
            writeln!(csv, "{row}")?;
        }
        Ok(())
    }

    pub fn summary(&mut self, file: &Path, summary: &Summary) -> anyhow::Result<()> {
        self.line(file, None, &Closing { summary })
    }

    /// Writes what is still held back and gives the files their names.
    pub fn finish(self) -> anyhow::Result<()> {
        for writer in [self.json, self.csv].into_iter().flatten() {
            let sink = writer.into_inner().map_err(std::io::IntoInnerError::into_error);
            sink.and_then(Sink::keep).context("writing what was found")?;
        }
        Ok(())
    }
}

/// One line of the CSV file (RFC 4180).
#[allow(clippy::too_many_arguments, reason = "the columns of the file, in their order")]
fn row(
    file: &Path,
    time: &str,
    id: &str,
    kind: &str,
    label: &str,
    score: f32,
    bbox: &[f32; 4],
    attributes: &Attributes,
) -> String {
    let gender = attributes
        .apparent_gender
        .map(|gender| (format!("{:?}", gender.label).to_lowercase(), format!("{:.3}", gender.score)));
    let (gender, gender_score) = gender.unwrap_or_default();
    let text = attributes.text.as_ref().map(|text| (quoted(&text.label), format!("{:.3}", text.score)));
    let (text, text_score) = text.unwrap_or_default();
    let class =
        |(model, class): (&String, &LabelReport)| format!("{model}={}:{:.3}", class.label, class.score);
    let classes = attributes.classes.iter().map(class).collect::<Vec<_>>().join(";");
    let mut cells = vec![quoted(&file.to_string_lossy()), time.into(), id.into(), kind.into(), quoted(label)];
    cells.push(format!("{score:.3}"));
    cells.extend(bbox.iter().map(|side| format!("{side:.1}")));
    cells.extend([gender, gender_score, text, text_score, quoted(&classes)]);
    cells.join(",")
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let bbox = [1.0, 2.04, 3.0, 4.0];
        let row =
            row(Path::new("a,\"b\".jpg"), "", "7", "object", "cup", 0.71234, &bbox, &Attributes::default());
        assert_eq!(row, "\"a,\"\"b\"\".jpg\",,7,object,cup,0.712,1.0,2.0,3.0,4.0,,,,,");
        let said = Attributes {
            text: Some(LabelReport { label: "A, B".into(), score: 0.9 }),
            classes: [("helmet".to_owned(), LabelReport { label: "on".into(), score: 0.5 })].into(),
            ..Attributes::default()
        };
        let row = super::row(Path::new("a.jpg"), "", "", "text", "text", 1.0, &bbox, &said);
        assert!(row.ends_with(",,,\"A, B\",0.900,helmet=on:0.500"), "{row}");
    }
}
