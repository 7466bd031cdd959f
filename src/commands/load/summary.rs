//! The figures of a load run: what goes to the terminal, to `--json` and to the page.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::commands::bench::machine::Machine;
use crate::commands::bench::summary::Percentiles;
use crate::load::poster::Posts;
use crate::load::publisher::Outcome;
use crate::load::visitor::Visits;

/// What was asked for.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub url: String,
    pub sessions: usize,
    pub ramp_per_second: f64,
    pub seconds: u64,
    pub width: u16,
    pub height: u16,
    pub sent_fps: f64,
    pub settings: Value,
    pub predict_clients: usize,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    pub plan: Plan,
    /// Where the synthetic browsers ran.
    pub machine: Machine,
    /// Processor cores that they needed.
    pub client_cores: f64,
    pub sessions: Sessions,
    pub joining: Joining,
    pub video: Video,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict: Option<Predict>,
    /// One a second, from the start.
    pub seconds: Vec<Second>,
    pub visitors: Vec<Visitor>,
}

#[derive(Debug, Default, Serialize)]
pub struct Sessions {
    pub wanted: usize,
    /// Visitors that had a first report.
    pub joined: usize,
    /// Visitors that never had one.
    pub never_joined: usize,
    /// Tries that did not come to a report, by reason.
    pub failed_tries: BTreeMap<String, u32>,
    /// Sessions that ended before their time, by reason.
    pub lost: BTreeMap<String, u32>,
    /// Left for a new one because the service asked for it.
    pub migrated: u32,
    /// Found again after their signalling was lost under live media.
    pub reattached: u32,
    /// A sentence for each reason.
    pub reasons: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize)]
pub struct Joining {
    /// First reports a second, from the first visitor's start to the last one's first report.
    pub joins_per_second: f64,
    /// From a visitor's start to its first report, refused tries included.
    pub first_result_ms: Percentiles,
    /// Of the sessions that were joined, from opening the socket: its opening, then from the offer on.
    pub socket_ms: Percentiles,
    pub answer_ms: Percentiles,
    pub ice_ms: Percentiles,
    pub dtls_ms: Percentiles,
    pub channel_ms: Percentiles,
}

#[derive(Debug, Default, Serialize)]
pub struct Video {
    /// Between first and last report, over the visitors.
    pub recognised_fps: Spread,
    pub sent_fps: Spread,
    pub annotated_fps: Spread,
    /// From writing a frame to reading its report.
    pub report_ms: Percentiles,
    /// From a frame's last packet to its report, in the server.
    pub server_ms: Percentiles,
    pub annotated_ms: Percentiles,
    /// By the numbers in the pictures, from writing a frame to having decoded it from the annotated track.
    pub glass_ms: Percentiles,
    /// The longest time without a report of each visitor.
    pub silence_ms: Percentiles,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub nacks: u64,
    pub key_frames_asked: u64,
    /// Pictures that newer ones replaced before they were recognised.
    pub dropped: u64,
    pub notices: BTreeMap<String, u32>,
}

#[derive(Debug, Default, Serialize)]
pub struct Predict {
    pub clients: usize,
    pub answered: usize,
    pub per_second: f64,
    pub latency_ms: Percentiles,
    pub refused: BTreeMap<String, u32>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub min: f64,
    pub p50: f64,
    pub max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { min: at(0), p50: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Second {
    /// Visitors that had a report in it.
    pub live: usize,
    pub joins: usize,
    pub reports: usize,
    pub annotated: usize,
    pub report_p50_ms: f64,
    pub report_p95_ms: f64,
    pub report_p99_ms: f64,
    pub predicted: usize,
    pub predict_p50_ms: f64,
}

/// One visitor's figures.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Visitor {
    pub sessions: usize,
    pub first_result_ms: Option<f64>,
    pub recognised_fps: f64,
    pub report_p95_ms: f64,
    pub longest_silence_ms: f64,
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

impl Summary {
    pub fn of(
        plan: Plan,
        machine: Machine,
        began: Instant,
        length: Duration,
        visits: &[Visits],
        posts: &[Posts],
        client_cores: f64,
    ) -> Self {
        let outcomes: Vec<&Outcome> = visits.iter().flat_map(|visits| &visits.outcomes).collect();
        let predict = (!posts.is_empty()).then(|| predict(posts, length));
        let visitors = visits.iter().map(visitor).collect::<Vec<_>>();
        Self {
            sessions: sessions(plan.sessions, visits, &outcomes),
            joining: joining(began, visits, &outcomes),
            video: video(&outcomes, &visitors),
            seconds: seconds(began, length, visits, posts),
            client_cores: (client_cores * 100.0).round() / 100.0,
            plan,
            machine,
            predict,
            visitors,
        }
    }

    /// The figures for people.
    pub fn print(&self) {
        let Self { plan, sessions, joining, video, .. } = self;
        if plan.sessions > 0 {
            println!("\nsessions");
            println!("  joined                   {:>7} of {}", sessions.joined, sessions.wanted);
            print_counts("tries that failed", &sessions.failed_tries, &sessions.reasons);
            print_counts("lost", &sessions.lost, &sessions.reasons);
            if sessions.migrated + sessions.reattached > 0 {
                println!("  moved on request         {:>7}", sessions.migrated);
                println!("  found again              {:>7}", sessions.reattached);
            }
            println!("  joins a second           {:>7.1}", joining.joins_per_second);
            println!("  time to first result     {}", joining.first_result_ms);
            println!("\nrecognition");
            let spread = |s: &Spread| format!("min {:.1}  p50 {:.1}  max {:.1} fps", s.min, s.p50, s.max);
            println!("  recognised a session     {}", spread(&video.recognised_fps));
            println!("  sent a session           {}", spread(&video.sent_fps));
            if video.annotated_fps.max > 0.0 {
                println!("  annotated a session      {}", spread(&video.annotated_fps));
                println!("  sender to annotated      {}", video.annotated_ms);
            }
            if video.glass_ms.count > 0 {
                println!("  glass to glass           {}", video.glass_ms);
            }
            println!("  sender to report         {}", video.report_ms);
            println!("  of that in the server    {}", video.server_ms);
            println!("  longest without a report {}", video.silence_ms);
            println!(
                "  packets                  {} sent, {} lost, {} asked for again",
                video.packets_sent, video.packets_lost, video.nacks
            );
            println!("  key frames asked for     {:>7}", video.key_frames_asked);
            println!("  pictures replaced        {:>7}", video.dropped);
        }
        if let Some(predict) = &self.predict {
            println!("\npictures");
            println!(
                "  answered                 {:>7}, {:.1} a second",
                predict.answered, predict.per_second
            );
            println!("  latency                  {}", predict.latency_ms);
            print_counts("refused", &predict.refused, &BTreeMap::new());
        }
        println!("\nthe synthetic clients used {:.2} cores", self.client_cores);
    }
}

fn print_counts(what: &str, counts: &BTreeMap<String, u32>, reasons: &BTreeMap<String, String>) {
    println!("  {what:<24} {:>7}", counts.values().sum::<u32>());
    for (code, count) in counts {
        let reason = reasons.get(code).map(|reason| format!(" ({reason})")).unwrap_or_default();
        println!("    {count} x {code}{reason}");
    }
}

fn add(to: &mut BTreeMap<String, u32>, from: &BTreeMap<String, u32>) {
    for (code, count) in from {
        *to.entry(code.clone()).or_default() += count;
    }
}

fn sessions(wanted: usize, visits: &[Visits], outcomes: &[&Outcome]) -> Sessions {
    let joined = visits.iter().filter(|visits| visits.first_result.is_some()).count();
    let mut sessions =
        Sessions { wanted, joined, never_joined: wanted.saturating_sub(joined), ..Sessions::default() };
    for visits in visits {
        add(&mut sessions.failed_tries, &visits.failed);
        add(&mut sessions.lost, &visits.lost);
        sessions.migrated += visits.migrated;
        for (code, reason) in &visits.reasons {
            sessions.reasons.entry(code.clone()).or_insert_with(|| reason.clone());
        }
    }
    sessions.reattached = outcomes.iter().map(|outcome| outcome.reattached).sum();
    sessions
}

fn joining(began: Instant, visits: &[Visits], outcomes: &[&Outcome]) -> Joining {
    let first_results: Vec<Duration> = visits.iter().filter_map(|visits| visits.first_result).collect();
    let last = visits.iter().filter_map(|visits| Some(visits.began? + visits.first_result?)).max();
    let span = last.map_or(0.0, |last| last.duration_since(began).as_secs_f64());
    let of =
        |step: fn(&Outcome) -> Option<Duration>| Percentiles::of(outcomes.iter().filter_map(|o| step(o)));
    Joining {
        joins_per_second: if span > 0.0 { first_results.len() as f64 / span } else { 0.0 },
        first_result_ms: Percentiles::of(first_results),
        socket_ms: of(|outcome| Some(outcome.opened)),
        answer_ms: of(|outcome| outcome.joining.answer),
        ice_ms: of(|outcome| outcome.joining.ice),
        dtls_ms: of(|outcome| outcome.joining.dtls),
        channel_ms: of(|outcome| outcome.joining.channel),
    }
}

/// Events a second between the first and the last.
fn rate(times: impl Iterator<Item = Duration> + Clone) -> f64 {
    let count = times.clone().count();
    match (times.clone().min(), times.max()) {
        (Some(first), Some(last)) if last > first => (count - 1) as f64 / (last - first).as_secs_f64(),
        _ => 0.0,
    }
}

fn video(outcomes: &[&Outcome], visitors: &[Visitor]) -> Video {
    let reports = || outcomes.iter().flat_map(|outcome| &outcome.reports);
    let joined = || visitors.iter().filter(|visitor| visitor.first_result_ms.is_some());
    let mut notices = BTreeMap::new();
    for code in outcomes.iter().flat_map(|outcome| &outcome.notices) {
        *notices.entry(code.clone()).or_default() += 1;
    }
    Video {
        recognised_fps: Spread::of(joined().map(|visitor| visitor.recognised_fps)),
        sent_fps: Spread::of(outcomes.iter().map(|outcome| rate(outcome.sent_at.iter().copied()))),
        annotated_fps: Spread::of(outcomes.iter().map(|o| rate(o.annotated.iter().map(|(at, _)| *at)))),
        report_ms: Percentiles::of(reports().map(|report| report.latency)),
        server_ms: Percentiles::of_ms(reports().map(|report| f64::from(report.timings.total))),
        annotated_ms: Percentiles::of(
            outcomes.iter().flat_map(|o| &o.annotated).filter_map(|(_, latency)| *latency),
        ),
        glass_ms: Percentiles::of(outcomes.iter().flat_map(|o| &o.glass).copied()),
        silence_ms: Percentiles::of_ms(joined().map(|visitor| visitor.longest_silence_ms)),
        packets_sent: outcomes.iter().map(|outcome| outcome.network.packets_sent).sum(),
        packets_lost: outcomes.iter().map(|outcome| outcome.network.packets_lost).sum(),
        nacks: outcomes.iter().map(|outcome| outcome.network.nacks).sum(),
        key_frames_asked: outcomes.iter().map(|outcome| outcome.key_frames_asked).sum(),
        dropped: outcomes.iter().map(|outcome| outcome.dropped).sum(),
        notices,
    }
}

/// When the visitor's reports came, in order.
fn report_times(visits: &Visits) -> Vec<Instant> {
    let mut times: Vec<Instant> = visits
        .outcomes
        .iter()
        .filter_map(|outcome| Some((outcome.began? + outcome.opened, outcome)))
        .flat_map(|(began, outcome)| outcome.reports.iter().map(move |report| began + report.at))
        .collect();
    times.sort();
    times
}

fn visitor(visits: &Visits) -> Visitor {
    let times = report_times(visits);
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let latencies = visits.outcomes.iter().flat_map(|outcome| &outcome.reports).map(|report| report.latency);
    let first = times.first().copied();
    Visitor {
        sessions: visits.outcomes.len(),
        first_result_ms: visits.first_result.map(ms),
        recognised_fps: first.map_or(0.0, |first| rate(times.iter().map(|at| *at - first))),
        report_p95_ms: Percentiles::of(latencies).p95,
        longest_silence_ms: ms(longest),
    }
}

fn seconds(began: Instant, length: Duration, visits: &[Visits], posts: &[Posts]) -> Vec<Second> {
    let count = length.as_secs_f64().ceil() as usize;
    let index = |at: Instant| at.saturating_duration_since(began).as_secs() as usize;
    let mut seconds = vec![Second::default(); count];
    let (mut reported, mut predicted) = (vec![Vec::new(); count], vec![Vec::new(); count]);
    for visits in visits {
        if let (Some(start), Some(first)) = (visits.began, visits.first_result)
            && let Some(second) = seconds.get_mut(index(start + first))
        {
            second.joins += 1;
        }
        let mut live: Vec<usize> = report_times(visits).into_iter().map(index).collect();
        live.dedup();
        for at in live {
            if let Some(second) = seconds.get_mut(at) {
                second.live += 1;
            }
        }
        for outcome in &visits.outcomes {
            let Some(start) = outcome.began else { continue };
            let start = start + outcome.opened;
            for report in &outcome.reports {
                if let Some(latencies) = reported.get_mut(index(start + report.at)) {
                    latencies.push(report.latency);
                }
            }
            for (at, _) in &outcome.annotated {
                if let Some(second) = seconds.get_mut(index(start + *at)) {
                    second.annotated += 1;
                }
            }
        }
    }
    for (at, latency) in posts.iter().flat_map(|posts| &posts.answered) {
        if let Some(latencies) = predicted.get_mut(index(*at)) {
            latencies.push(*latency);
        }
    }
    for ((second, reported), predicted) in seconds.iter_mut().zip(reported).zip(predicted) {
        (second.reports, second.predicted) = (reported.len(), predicted.len());
        let latency = Percentiles::of(reported);
        (second.report_p50_ms, second.report_p95_ms) = (latency.p50, latency.p95);
        second.report_p99_ms = latency.p99;
        second.predict_p50_ms = Percentiles::of(predicted).p50;
    }
    seconds
}

fn predict(posts: &[Posts], length: Duration) -> Predict {
    let answered = posts.iter().map(|posts| posts.answered.len()).sum::<usize>();
    let mut refused = BTreeMap::new();
    for posts in posts {
        add(&mut refused, &posts.refused);
    }
    Predict {
        clients: posts.len(),
        answered,
        per_second: answered as f64 / length.as_secs_f64(),
        latency_ms: Percentiles::of(posts.iter().flat_map(|p| &p.answered).map(|(_, latency)| *latency)),
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::publisher::ReportSample;
    use crate::pipeline::report::Timings;

    /// A visitor with a report each 100 ms from `from_ms` to `to_ms` after its start.
    fn visits(began: Instant, from_ms: u64, to_ms: u64) -> Visits {
        let report = |at_ms| ReportSample {
            at: Duration::from_millis(at_ms),
            latency: Duration::from_millis(20),
            timings: Timings::default(),
            tracks: 0,
            texts: Vec::new(),
            size: (320, 240),
        };
        let reports = (from_ms..=to_ms).step_by(100).map(report).collect();
        let outcome = Outcome { began: Some(began), reports, ..Outcome::default() };
        let first_result = Some(Duration::from_millis(from_ms));
        Visits { outcomes: vec![outcome], began: Some(began), first_result, ..Visits::default() }
    }

    #[test]
    fn seconds_and_rates_follow_the_reports() {
        let began = Instant::now();
        let two = [visits(began, 0, 1900), visits(began + Duration::from_millis(500), 0, 400)];
        let seconds = seconds(began, Duration::from_secs(3), &two, &[]);
        let counts: Vec<_> = seconds.iter().map(|s| (s.live, s.joins, s.reports)).collect();
        assert_eq!(counts, [(2, 2, 15), (1, 0, 10), (0, 0, 0)]);
        assert_eq!(seconds[0].report_p95_ms, 20.0);
        assert!((visitor(&two[0]).recognised_fps - 10.0).abs() < 1e-9);
        assert_eq!(visitor(&two[0]).longest_silence_ms, 100.0);
    }

    #[test]
    fn a_visitor_without_a_report_counts_as_never_joined() {
        let never = Visits { failed: BTreeMap::from([("busy".into(), 3)]), ..Visits::default() };
        let all = [visits(Instant::now(), 0, 100), never];
        let outcomes: Vec<&Outcome> = all.iter().flat_map(|visits| &visits.outcomes).collect();
        let sessions = sessions(2, &all, &outcomes);
        assert_eq!((sessions.joined, sessions.never_joined, sessions.failed_tries["busy"]), (1, 1, 3));
    }
}
