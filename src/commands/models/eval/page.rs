//! An evaluation as one HTML file that needs nothing else: no script, no font, no network.

use std::cmp::Reverse;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{ClassReport, Report, Shown, read_picture, told};
use crate::commands::load::chart::escape;
use crate::files::image::{self, Format};
use crate::frame::{I420Buffer, Picture};
use crate::imgproc;
use crate::models::eval::coco::Labels;

const SHARED_STYLE: &str = include_str!("../../load/page.css");
const STYLE: &str = include_str!("page.css");
/// Pixels: pictures are shown no wider than about this.
const SHOWN_WIDTH: usize = 480;

/// The page, with up to `most` pictures out of `folder`.
pub fn render(report: &Report, labels: &Labels, shown: &[Shown], folder: &Path, most: usize) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>vigie models eval: {name}</title>\n<style>{SHARED_STYLE}{STYLE}</style>\n<main>\n\
         <header><h1><code>{name}</code> on {pictures} pictures</h1>\n\
         <p>{truths} things of {classes} classes, measured as COCO does; a picture took {p50:.1} ms (p95 {p95:.1}) to prepare, run and \
         read on one thread.</p></header>\n",
        name = escape(&report.model),
        pictures = report.pictures,
        truths = report.truths,
        classes = report.classes.iter().filter(|class| class.truths > 0).count(),
        p50 = report.p50_ms,
        p95 = report.p95_ms,
    );
    html += &tiles(report);
    html += &table(report);
    html += &pictures(report, labels, shown, folder, most);
    html += &foot(report);
    html + "</main>\n</html>\n"
}

fn tiles(report: &Report) -> String {
    let of = &report.averages;
    let [precise, sizes, recalls] = [
        format!("AP50 {} · AP75 {}", told(of.ap50), told(of.ap75)),
        format!("{} medium · {} large", told(of.ap_medium), told(of.ap_large)),
        format!("{} of the first, {} of ten a picture", told(of.ar_1), told(of.ar_10)),
    ];
    let right: usize = report.classes.iter().map(|class| class.right).sum();
    let wrong: usize = report.classes.iter().map(|class| class.wrong).sum();
    let missed: usize = report.classes.iter().map(|class| class.missed).sum();
    let tile = |term: &str, value: &str, more: &str| {
        format!("<div class=\"tile\"><dt>{term}</dt><dd>{value}</dd><dd class=\"more\">{more}</dd></div>\n")
    };
    format!(
        "<dl class=\"tiles\">\n{}{}{}{}</dl>\n",
        tile("Average precision (0.50 to 0.95)", &told(of.ap), &precise),
        tile("of small things", &told(of.ap_small), &sizes),
        tile("Average recall", &told(of.ar_100), &recalls),
        tile(
            &format!("Right, as shown live (score {})", report.threshold),
            &right.to_string(),
            &format!("{wrong} wrong · {missed} missed")
        ),
    )
}

fn table(report: &Report) -> String {
    let mut html = String::from(
        "<section class=\"figures\"><h2>By class</h2>\n<div class=\"wide\"><table><thead><tr><th>Class</th><th>Things</th><th>AP</th>\
         <th class=\"bar\"></th><th>AP50</th><th>AP75</th><th>Precision over recall</th><th>Right</th><th>Wrong</th><th>Missed</th></tr></thead>\n<tbody>\n",
    );
    let mut classes: Vec<&ClassReport> =
        report.classes.iter().filter(|class| class.truths + class.wrong > 0).collect();
    classes.sort_by(|a, b| b.averages.ap.unwrap_or(-1.0).total_cmp(&a.averages.ap.unwrap_or(-1.0)));
    for class in classes {
        let _ = writeln!(
            html,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td class=\"bar\"><i style=\"width:{:.1}%\"></i></td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&class.label),
            class.truths,
            told(class.averages.ap),
            class.averages.ap.unwrap_or(0.0) * 100.0,
            told(class.averages.ap50),
            told(class.averages.ap75),
            curve(class),
            class.right,
            class.wrong,
            class.missed,
        );
    }
    html + "</tbody></table></div></section>\n"
}

/// Precision over recall at an overlap of 0.5: the area below it is AP50.
fn curve(class: &ClassReport) -> String {
    if class.precision50.is_empty() {
        return String::new();
    }
    let mut points = String::new();
    for (recall, precision) in class.precision50.iter().enumerate() {
        let _ = write!(points, "{recall},{:.1} ", 30.0 - precision * 28.0);
    }
    format!(
        "<svg class=\"curve\" viewBox=\"0 0 100 31\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"precision over recall of {}\">\
         <polygon points=\"0,30 {points}100,30\"/><polyline points=\"{points}\"/></svg>",
        escape(&class.label)
    )
}

fn pictures(report: &Report, labels: &Labels, shown: &[Shown], folder: &Path, most: usize) -> String {
    let mistakes = |place: &usize| shown[*place].verdict.wrong.len() + shown[*place].verdict.missed.len();
    let mut order: Vec<usize> = (0..shown.len()).collect();
    order.sort_by_key(|place| (Reverse(mistakes(place)), *place));
    order.truncate(most);
    if order.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<section class=\"figures\"><h2>Pictures</h2>\n<p class=\"lead\">At a score of {} and more, as live recognition shows them; \
         those with most mistakes first{}.</p>\n<p class=\"keys\">",
        report.threshold,
        if order.len() < shown.len() {
            format!(", {} of {}", order.len(), shown.len())
        } else {
            String::new()
        },
    );
    for (key, text) in [
        ("right", "found, right"),
        ("wrong", "found, wrong"),
        ("missed", "missed"),
        ("true", "what is there"),
    ] {
        let checked = if key == "true" { "" } else { " checked" };
        let _ = write!(
            html,
            "<label class=\"{key}\"><input type=\"checkbox\" id=\"show-{key}\"{checked}> {text}</label>"
        );
    }
    html += "</p>\n<div class=\"pictures\">\n";
    for place in order {
        html += &picture(&labels.pictures[place], &shown[place], labels, folder);
    }
    html + "</div></section>\n"
}

fn picture(name: &str, shown: &Shown, labels: &Labels, folder: &Path) -> String {
    // It could be read before; if it no longer can, its boxes are of no use either.
    let Ok(picture) = read_picture(&folder.join(name)) else { return String::new() };
    let (width, height) = (picture.width, picture.height);
    let Some(jpeg) = small_jpeg(&picture) else { return String::new() };
    let mut boxes = String::new();
    // Sizes that look the same however large the picture is.
    let unit = width as f64 / SHOWN_WIDTH as f64;
    let mut draw = |class: &str, bbox: [f64; 4], caption: &str| {
        let [x, y, w, h] = bbox;
        let _ = write!(
            boxes,
            "<g class=\"{class}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             font-size=\"{:.1}\">{}</text></g>",
            x + 3.0 * unit,
            (y + 13.0 * unit).min(height as f64 - 2.0 * unit),
            12.0 * unit,
            escape(caption)
        );
    };
    let label = |class: usize| labels.categories[class].as_str();
    for truth in &shown.truths {
        draw("true", truth.bbox, label(truth.class));
    }
    for &place in &shown.verdict.missed {
        draw("missed", shown.truths[place].bbox, label(shown.truths[place].class));
    }
    for (class, places) in [("right", &shown.verdict.right), ("wrong", &shown.verdict.wrong)] {
        for &place in places {
            let found = &shown.found[place];
            draw(class, found.bbox, &format!("{} {:.0} %", label(found.class), found.score * 100.0));
        }
    }
    let verdict = &shown.verdict;
    format!(
        "<figure><div class=\"drawn\"><img alt=\"\" loading=\"lazy\" src=\"data:image/jpeg;base64,{}\">\
         <svg viewBox=\"0 0 {width} {height}\">{boxes}</svg></div><figcaption>{} <span>{} right · {} wrong · {} missed</span></figcaption></figure>\n",
        BASE64_STANDARD.encode(jpeg),
        escape(name),
        verdict.right.len(),
        verdict.wrong.len(),
        verdict.missed.len(),
    )
}

fn small_jpeg(picture: &Picture) -> Option<Vec<u8>> {
    let divisor = picture.width / SHOWN_WIDTH;
    if divisor < 2 {
        return image::encode(picture, Format::Jpeg).ok();
    }
    let mut canvas = I420Buffer::black(2, 2);
    imgproc::shrink(picture, divisor, &mut canvas).ok()?;
    image::encode(&canvas.into_picture(0, Instant::now()), Format::Jpeg).ok()
}

fn foot(report: &Report) -> String {
    let list = |title: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(
            "<details><summary>{} {title}</summary><p>{}</p></details>\n",
            names.len(),
            escape(&names.join(", "))
        ),
    };
    format!(
        "<footer>{}{}{}<p>vigie {} · head {} · {} detections counted</p></footer>\n",
        list("categories are not measured, since the model does not know them", &report.not_in_model),
        list(
            "labels of the model are not measured, since the pictures are not labelled with them",
            &report.not_in_labels
        ),
        list("pictures were left out", &report.left_out),
        env!("CARGO_PKG_VERSION"),
        report.head,
        report.detections,
    )
}
