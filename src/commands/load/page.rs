//! The figures of a load run as one HTML file that needs nothing else: no script, no font, no network.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::chart::{Axes, Series, bars, escape, lines};
use super::summary::Summary;
use crate::commands::bench::summary::Percentiles;

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(summary: &Summary) -> String {
    let plan = &summary.plan;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>vigie load: {url}</title>\n<style>{STYLE}</style>\n<main>\n",
        url = escape(&plan.url)
    );
    html += &head(summary);
    html += &tiles(summary);
    html += "<div class=\"plots\">\n";
    if plan.sessions > 0 {
        html += &live(summary);
        html += &latency(summary);
        html += &first_results(summary);
        html += &recognised(summary);
    }
    if summary.predict.is_some() {
        html += &pictures(summary);
    }
    html += "</div>\n";
    html += &table(summary);
    html += &foot(summary);
    html + "</main>\n</html>\n"
}

fn head(summary: &Summary) -> String {
    let (plan, sessions) = (&summary.plan, &summary.sessions);
    let lost: u32 = sessions.lost.values().sum();
    let whole = sessions.never_joined == 0 && lost == 0;
    let verdict = match (plan.sessions, whole) {
        (0, _) => String::new(),
        (_, true) => "<p class=\"verdict good\">every session joined, none was lost</p>".into(),
        (_, false) => format!(
            "<p class=\"verdict bad\">{} of {} never joined, {lost} lost</p>",
            sessions.never_joined, sessions.wanted
        ),
    };
    let mut what = Vec::new();
    if plan.sessions > 0 {
        what.push(format!(
            "{} synthetic browsers, {} joining a second, each sending {}×{} at {} fps",
            plan.sessions, plan.ramp_per_second, plan.width, plan.height, plan.sent_fps
        ));
        let limit = plan.settings["max_rate"].as_f64();
        what.push(limit.map_or("no limit on recognition".into(), |rate| {
            format!("recognition limited to {rate} fps a session")
        }));
        what.push(format!("output {}", plan.settings["output"].as_str().unwrap_or("overlay")));
    }
    if plan.predict_clients > 0 {
        what.push(format!("{} clients posting pictures", plan.predict_clients));
    }
    format!(
        "<header><h1>Load on <code>{}</code></h1><p>{}; {} s after the last start.</p>{verdict}</header>\n",
        escape(&plan.url),
        escape(&what.join("; ")),
        plan.seconds
    )
}

fn tile(html: &mut String, name: &str, value: &str, unit: &str, more: &str) {
    let _ = write!(
        html,
        "<div class=\"tile\"><dt>{name}</dt><dd>{value} <small>{unit}</small></dd><dd class=\"more\">{}</dd></div>",
        escape(more)
    );
}

fn tiles(summary: &Summary) -> String {
    let Summary { plan, sessions, joining, video, .. } = summary;
    let mut html = "<dl class=\"tiles\">\n".to_owned();
    if plan.sessions > 0 {
        let lost: u32 = sessions.lost.values().sum();
        tile(
            &mut html,
            "Sessions joined",
            &sessions.joined.to_string(),
            &format!("of {}", sessions.wanted),
            &format!("{lost} lost, {} moved on request", sessions.migrated),
        );
        tile(
            &mut html,
            "Joins",
            &format!("{:.1}", joining.joins_per_second),
            "a second",
            &format!("{} tries failed", sessions.failed_tries.values().sum::<u32>()),
        );
        let first = &joining.first_result_ms;
        let tail = |p: &Percentiles| format!("p95 {:.0}, p99 {:.0} ms", p.p95, p.p99);
        tile(&mut html, "First result", &format!("{:.0}", first.p50), "ms, p50", &tail(first));
        tile(
            &mut html,
            "Frame to report",
            &format!("{:.0}", video.report_ms.p50),
            "ms, p50",
            &tail(&video.report_ms),
        );
        tile(
            &mut html,
            "Recognised a session",
            &format!("{:.1}", video.recognised_fps.p50),
            "fps, p50",
            &format!("min {:.2}, max {:.2}", video.recognised_fps.min, video.recognised_fps.max),
        );
        if video.annotated_fps.max > 0.0 {
            tile(
                &mut html,
                "Annotated a session",
                &format!("{:.1}", video.annotated_fps.p50),
                "fps, p50",
                &format!("{:.0} ms behind, p50", video.annotated_ms.p50),
            );
        }
        let share = video.packets_lost as f64 / (video.packets_sent.max(1)) as f64 * 100.0;
        tile(
            &mut html,
            "Packets lost",
            &video.packets_lost.to_string(),
            &format!("of {}", video.packets_sent),
            &format!("{share:.3} %, {} asked for again", video.nacks),
        );
    }
    if let Some(predict) = &summary.predict {
        tile(
            &mut html,
            "Pictures",
            &format!("{:.1}", predict.per_second),
            "a second",
            &format!("{:.0} ms p50, {:.0} p95", predict.latency_ms.p50, predict.latency_ms.p95),
        );
    }
    html + "</dl>\n"
}

fn figure(title: &str, text: &str, legend: &[(&str, &str)], svg: &str) -> String {
    let mut html = format!("<figure><h2>{title}</h2><p>{text}</p>");
    if !legend.is_empty() {
        html += "<ul class=\"legend\">";
        for (class, name) in legend {
            let _ = write!(html, "<li><i class=\"{class}\"></i>{name}</li>");
        }
        html += "</ul>";
    }
    html + svg + "</figure>\n"
}

fn over_time(title: &str, text: &str, y: &str, series: &[Series<'_>]) -> String {
    let legend: Vec<_> = series.iter().map(|series| (series.class, series.name)).collect();
    let axes = Axes { x: "seconds", y, y_max: None };
    figure(title, text, &legend, &lines(title, &axes, series))
}

fn of_seconds(summary: &Summary, value: impl Fn(&super::summary::Second) -> f64) -> Vec<(f64, f64)> {
    summary.seconds.iter().enumerate().map(|(at, second)| (at as f64, value(second))).collect()
}

fn live(summary: &Summary) -> String {
    let series = [
        Series {
            name: "sessions with results",
            class: "brass",
            points: of_seconds(summary, |s| s.live as f64),
        },
        Series { name: "first results", class: "sea", points: of_seconds(summary, |s| s.joins as f64) },
    ];
    over_time(
        "Sessions",
        "Sessions that had a result in each second, and those that had their first.",
        "",
        &series,
    )
}

/// A second without an answer has no latency.
fn of_answers(summary: &Summary, value: impl Fn(&super::summary::Second) -> f64) -> Vec<(f64, f64)> {
    of_seconds(summary, value).into_iter().filter(|(_, ms)| *ms > 0.0).collect()
}

fn latency(summary: &Summary) -> String {
    let series = [
        Series { name: "p50", class: "brass", points: of_answers(summary, |s| s.report_p50_ms) },
        Series { name: "p95", class: "bad", points: of_answers(summary, |s| s.report_p95_ms) },
    ];
    let text = "Milliseconds from sending a frame to reading what was recognised on it.";
    over_time("Frame to report", text, "ms", &series)
}

fn first_results(summary: &Summary) -> String {
    let mut times: Vec<f64> = summary.visitors.iter().filter_map(|visitor| visitor.first_result_ms).collect();
    times.sort_by(f64::total_cmp);
    let count = summary.visitors.len().max(1) as f64;
    let share = |rank: usize| (rank + 1) as f64 / count * 100.0;
    let start = times.first().map(|first| (*first, 0.0));
    let points =
        start.into_iter().chain(times.iter().enumerate().map(|(rank, ms)| (*ms, share(rank)))).collect();
    let axes = Axes { x: "ms", y: "%", y_max: Some(100.0) };
    let series = [Series { name: "", class: "sea", points }];
    let text = "Per cent of the sessions that had a first result this long after they began to join.";
    figure("Time to first result", text, &[], &lines("Time to first result", &axes, &series))
}

fn recognised(summary: &Summary) -> String {
    let mut rates: Vec<f64> = summary.visitors.iter().map(|visitor| visitor.recognised_fps).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    let axes = Axes { x: "sessions, most to least", y: "fps", y_max: None };
    let text = "Reports a second of each session: level bars are fair shares.";
    figure("Recognised frames", text, &[], &bars("Recognised frames a second", &axes, "brass", &rates))
}

fn pictures(summary: &Summary) -> String {
    let latency = of_answers(summary, |s| s.predict_p50_ms);
    let series = [Series { name: "p50 of the answers in the second", class: "sea", points: latency }];
    over_time("Pictures posted", "Milliseconds from posting a picture to its answer.", "ms", &series)
}

fn row(html: &mut String, name: &str, p: &Percentiles) {
    if p.count > 0 {
        let _ = write!(
            html,
            "<tr><th>{name}</th><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td></tr>",
            p.p50, p.p95, p.p99, p.max, p.count
        );
    }
}

fn table(summary: &Summary) -> String {
    let (joining, video) = (&summary.joining, &summary.video);
    let mut html = "<section class=\"figures\"><h2>Milliseconds</h2><table><thead><tr><th></th><th>p50</th>\
                    <th>p95</th><th>p99</th><th>max</th><th>count</th></tr></thead><tbody>\n"
        .to_owned();
    row(&mut html, "join: signalling socket open", &joining.socket_ms);
    row(&mut html, "join: offer to answer", &joining.answer_ms);
    row(&mut html, "join: offer to ICE connected", &joining.ice_ms);
    row(&mut html, "join: offer to DTLS finished", &joining.dtls_ms);
    row(&mut html, "join: offer to results channel", &joining.channel_ms);
    row(&mut html, "join: start to first result", &joining.first_result_ms);
    row(&mut html, "frame to report", &video.report_ms);
    row(&mut html, "of that in the server", &video.server_ms);
    row(&mut html, "frame to annotated picture", &video.annotated_ms);
    row(&mut html, "glass to glass, by a number in the picture", &video.glass_ms);
    row(&mut html, "longest time without a report", &video.silence_ms);
    if let Some(predict) = &summary.predict {
        row(&mut html, "picture posted to answer", &predict.latency_ms);
    }
    html += "</tbody></table>\n";
    html += &reasons(summary);
    html + "</section>\n"
}

fn reasons(summary: &Summary) -> String {
    let sessions = &summary.sessions;
    let refused = summary.predict.as_ref().map(|predict| predict.refused.clone()).unwrap_or_default();
    let kinds =
        [("tries failed", &sessions.failed_tries), ("lost", &sessions.lost), ("pictures refused", &refused)];
    let item = |what: &str, counts: &BTreeMap<String, u32>| -> String {
        let line = |(code, count): (&String, &u32)| {
            let reason = sessions.reasons.get(code).map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("<li>{count} {what}, <code>{}</code>{}</li>", escape(code), escape(&reason))
        };
        counts.iter().map(line).collect()
    };
    let items: String = kinds.iter().map(|(what, counts)| item(what, counts)).collect();
    if items.is_empty() { items } else { format!("<ul class=\"reasons\">{items}</ul>\n") }
}

fn foot(summary: &Summary) -> String {
    let machine = &summary.machine;
    format!(
        "<footer>vigie {} · the synthetic clients ran on {} cores of an {}, Linux {}, load before {:.2}, and used \
         {:.2} cores · {} pictures were replaced by newer ones before they were recognised, {} key frames asked for\
         </footer>\n",
        machine.vigie,
        machine.cores,
        escape(&machine.processor),
        escape(&machine.kernel),
        machine.load_before,
        summary.client_cores,
        summary.video.dropped,
        summary.video.key_frames_asked,
    )
}
