//! Every metric, with its help text and buckets, in one place.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, proto::Metric,
};

/// Seconds: from a tenth of a millisecond to the second after which nobody calls it live.
const STAGE_BUCKETS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0];
/// Seconds: from a short clip to a long film.
const JOB_BUCKETS: &[f64] = &[1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10_800.0];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// A stage of the frame's path, as the `stage` label names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the frame's last packet to the decoder.
    Receive,
    Decode,
    /// In the mailbox.
    Queue,
    Prepare,
    Infer,
    Track,
    Draw,
    Encode,
    Send,
    /// From the frame's last packet to the hand-over of its report.
    Total,
    /// From the frame's last packet to the hand-over of its annotated picture.
    Annotated,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Decode => "decode",
            Self::Queue => "queue",
            Self::Prepare => "prepare",
            Self::Infer => "infer",
            Self::Track => "track",
            Self::Draw => "draw",
            Self::Encode => "encode",
            Self::Send => "send",
            Self::Total => "total",
            Self::Annotated => "annotated",
        }
    }
}

/// All metrics of one process. Each field's help text is what `/metrics` says of it.
pub struct Metrics {
    registry: Registry,
    pub sessions_active: IntGauge,
    pub sessions_total: IntCounter,
    pub viewers_active: IntGauge,
    pub worker_load_ratio: Gauge,
    /// Labels: state.
    pub workers: IntGaugeVec,
    /// Labels: stage.
    pub frames_total: IntCounterVec,
    /// Labels: stage.
    pub frames_dropped_total: IntCounterVec,
    /// Labels: stage.
    pub stage_seconds: HistogramVec,
    pub inference_batch_size: Histogram,
    pub inference_queue_seconds: Histogram,
    /// Labels: model, version.
    pub inference_seconds: HistogramVec,
    /// Labels: model, version.
    pub inference_errors_total: IntCounterVec,
    /// Labels: model, version.
    pub model_sessions: IntGaugeVec,
    /// Labels: model, version.
    pub shadow_pictures_total: IntCounterVec,
    /// Labels: slot, model, version.
    pub shadow_agreement_ratio: GaugeVec,
    /// Labels: slot.
    pub rollbacks_total: IntCounterVec,
    pub inference_skipped_total: IntCounter,
    /// Labels: device. 1 for the one in use.
    pub inference_device: IntGaugeVec,
    /// Labels: kind.
    pub detections_total: IntCounterVec,
    /// Labels: outcome.
    pub text_reads_total: IntCounterVec,
    /// Labels: outcome.
    pub pictures_total: IntCounterVec,
    /// Labels: stage.
    pub picture_seconds: HistogramVec,
    /// Labels: outcome.
    pub oip_requests_total: IntCounterVec,
    /// Labels: stage.
    pub oip_seconds: HistogramVec,
    /// Labels: state.
    pub jobs: IntGaugeVec,
    /// Labels: outcome.
    pub jobs_total: IntCounterVec,
    pub job_seconds: Histogram,
    /// Labels: outcome.
    pub uploads_total: IntCounterVec,
    pub upload_bytes_total: IntCounter,
    /// Labels: outcome.
    pub model_uploads_total: IntCounterVec,
    /// Labels: route, status.
    pub http_requests_total: IntCounterVec,
    pub ice_failures_total: IntCounter,
    /// Labels: outcome.
    pub model_loads_total: IntCounterVec,
    /// Labels: reason.
    pub refusals_total: IntCounterVec,
    pub key_frames_requested_total: IntCounter,
    pub session_panics_total: IntCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let new = Register(&registry);
        let metrics = Self {
            sessions_active: new.gauge("vigie_sessions_active", "Live sessions on this worker."),
            sessions_total: new.counter("vigie_sessions_total", "Live sessions opened since the start."),
            viewers_active: new.gauge("vigie_viewers_active", "Viewers of this worker's sessions, by WHEP."),
            worker_load_ratio: new.float_gauge(
                "vigie_worker_load_ratio",
                "Share of this worker's capacity in use, as counted and measured; it admits sessions below 1.",
            ),
            workers: new.gauges(
                "vigie_workers",
                "Workers as this front sees them, by state: admitting, full, draining, unreachable.",
                &["state"],
            ),
            frames_total: new.counters(
                "vigie_frames_total",
                "Frames that completed a stage of the path.",
                &["stage"],
            ),
            frames_dropped_total: new.counters(
                "vigie_frames_dropped_total",
                "Frames dropped at a stage: decode (broken or undecodable), queue (a newer picture took its place), encode and send (the viewer was slower).",
                &["stage"],
            ),
            stage_seconds: new.histograms(
                "vigie_stage_seconds",
                "Time a frame spent in a stage; total is from its last packet to its report, annotated to its annotated picture.",
                &["stage"],
                STAGE_BUCKETS,
            ),
            inference_batch_size: new.histogram(
                "vigie_inference_batch_size",
                "Requests run together in one inference.",
                BATCH_BUCKETS,
            ),
            inference_queue_seconds: new.histogram(
                "vigie_inference_queue_seconds",
                "Time a request waited for an engine.",
                STAGE_BUCKETS,
            ),
            inference_seconds: new.histograms(
                "vigie_inference_seconds",
                "Time one batch ran in an engine.",
                &["model", "version"],
                STAGE_BUCKETS,
            ),
            inference_errors_total: new.counters(
                "vigie_inference_errors_total",
                "Runs of a model that failed, or whose outputs could not be read.",
                &["model", "version"],
            ),
            model_sessions: new.gauges(
                "vigie_model_sessions",
                "Live sessions that a model serves now.",
                &["model", "version"],
            ),
            shadow_pictures_total: new.counters(
                "vigie_shadow_pictures_total",
                "Pictures that a model has seen as a shadow, to be compared with what served.",
                &["model", "version"],
            ),
            shadow_agreement_ratio: new.float_gauges(
                "vigie_shadow_agreement_ratio",
                "F1 of what a shadow found against what served found, paired by an IoU of at least 0.5, since it was loaded.",
                &["slot", "model", "version"],
            ),
            rollbacks_total: new.counters(
                "vigie_rollbacks_total",
                "Versions that this worker took out of a traffic because they broke its bounds.",
                &["slot"],
            ),
            inference_skipped_total: new.counter(
                "vigie_inference_skipped_total",
                "Requests not run because the asker had gone.",
            ),
            inference_device: new.gauges(
                "vigie_inference_device",
                "1 for each device that a loaded model runs on.",
                &["device"],
            ),
            detections_total: new.counters("vigie_detections_total", "Detections reported, by kind.", &["kind"]),
            text_reads_total: new.counters(
                "vigie_text_reads_total",
                "Text looked for in live sessions, by outcome: searched (pictures, for lines), read, nothing (places), failed, refused.",
                &["outcome"],
            ),
            pictures_total: new.counters(
                "vigie_pictures_total",
                "Posted pictures, by outcome: recognised, unreadable, failed, withdrawn.",
                &["outcome"],
            ),
            picture_seconds: new.histograms(
                "vigie_picture_seconds",
                "Time a posted picture spent in a stage; total is from the start of decoding to the end of recognition.",
                &["stage"],
                STAGE_BUCKETS,
            ),
            oip_requests_total: new.counters(
                "vigie_oip_requests_total",
                "Inference requests by the Open Inference Protocol, by outcome: answered, refused, busy, failed.",
                &["outcome"],
            ),
            oip_seconds: new.histograms(
                "vigie_oip_seconds",
                "Time an inference request spent in a stage: read, parse, run (from being queued to its outputs; of that queue, until a lane took it, and infer, in the engine), answer, total.",
                &["stage"],
                STAGE_BUCKETS,
            ),
            jobs: new.gauges(
                "vigie_jobs",
                "Video jobs by state: queued (waiting in the queue, wherever they will run), running (in this process).",
                &["state"],
            ),
            jobs_total: new.counters(
                "vigie_jobs_total",
                "What this process did with video jobs, by outcome: created, done, failed, cancelled, retried, expired.",
                &["outcome"],
            ),
            job_seconds: new.histogram(
                "vigie_job_seconds",
                "Time one run of a video job took, from the queue to its end.",
                JOB_BUCKETS,
            ),
            uploads_total: new.counters(
                "vigie_uploads_total",
                "Videos sent, by outcome: taken, refused, broken_off.",
                &["outcome"],
            ),
            upload_bytes_total: new.counter("vigie_upload_bytes_total", "Bytes of videos received."),
            model_uploads_total: new.counters(
                "vigie_model_uploads_total",
                "Models sent, by outcome: taken, refused (by a check, a trial or the door), broken_off, failed.",
                &["outcome"],
            ),
            http_requests_total: new.counters(
                "vigie_http_requests_total",
                "HTTP requests answered.",
                &["route", "status"],
            ),
            ice_failures_total: new.counter("vigie_ice_failures_total", "Sessions whose ICE connection failed."),
            model_loads_total: new.counters("vigie_model_loads_total", "Models loaded, by outcome: loaded, failed, unloaded.", &["outcome"]),
            refusals_total: new.counters(
                "vigie_refusals_total",
                "Requests refused at the door, by reason.",
                &["reason"],
            ),
            key_frames_requested_total: new.counter(
                "vigie_key_frames_requested_total",
                "Key frames asked for after loss or a decoding error.",
            ),
            session_panics_total: new.counter(
                "vigie_session_panics_total",
                "Sessions ended by a fault of vigie's own; always a bug.",
            ),
            registry: registry.clone(),
        };
        #[cfg(target_os = "linux")]
        new.collect(prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// Adds metrics that are read when somebody asks; without effect when they are there.
    pub fn add(&self, collector: impl Collector + 'static) {
        if let Err(error) = self.registry.register(Box::new(collector)) {
            tracing::debug!(%error, "metrics that are there already");
        }
    }

    /// Counts a frame through `stage`, and the time that it took.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.frames_total.with_label_values(&[stage.name()]).inc();
        self.stage_seconds.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
    }

    pub fn frame_dropped(&self, stage: Stage) {
        self.frames_dropped_total.with_label_values(&[stage.name()]).inc();
    }

    /// How many frames went through `stage`, and the seconds that they took together.
    pub fn stage_totals(&self, stage: Stage) -> (u64, f64) {
        let families = self.stage_seconds.collect();
        let is_wanted =
            |metric: &&Metric| metric.get_label().iter().any(|label| label.value() == stage.name());
        let found = families.iter().flat_map(|family| family.get_metric()).find(is_wanted);
        found
            .map(|metric| metric.get_histogram())
            .map_or((0, 0.0), |times| (times.get_sample_count(), times.get_sample_sum()))
    }

    /// Seconds for which engines ran, of every model together.
    pub fn inference_busy_seconds(&self) -> f64 {
        let families = self.inference_seconds.collect();
        let models = families.iter().flat_map(|family| family.get_metric());
        models.map(|model| model.get_histogram().get_sample_sum()).sum()
    }

    pub fn refused(&self, reason: &str) {
        self.refusals_total.with_label_values(&[reason]).inc();
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metrics gathered from a registry can be written to memory");
        String::from_utf8(text).expect("Prometheus' text format is UTF-8")
    }
}

/// Makes a metric and registers it in one step.
struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn collect<C: prometheus::core::Collector + 'static>(&self, collector: C) {
        self.0.register(Box::new(collector)).expect("metric names are distinct");
    }

    fn keep<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("metric names and labels are well-formed");
        self.collect(metric.clone());
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.keep(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.keep(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_counted_and_timed() {
        let metrics = Metrics::new();
        metrics.observe(Stage::Decode, Duration::from_millis(2));
        metrics.frame_dropped(Stage::Queue);
        let text = metrics.render();
        assert!(text.contains("vigie_frames_total{stage=\"decode\"} 1"), "{text}");
        assert_eq!(metrics.stage_totals(Stage::Decode), (1, 0.002));
        assert_eq!(metrics.stage_totals(Stage::Total), (0, 0.0));
        assert!(text.contains("vigie_frames_dropped_total{stage=\"queue\"} 1"), "{text}");
        assert!(text.contains("vigie_stage_seconds_bucket{stage=\"decode\",le=\"0.0025\"} 1"), "{text}");
    }
}
