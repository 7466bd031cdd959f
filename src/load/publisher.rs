//! One synthetic browser: joins a session, publishes a clip in real time, and notes what comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcError};
use tokio::net::UdpSocket;

use super::clip::Clip;
use super::counter::Reader;
use super::signalling::{Received, Signalling};
use super::target::{Target, TargetError};
use crate::cluster::protocol::ServerMessage;
use crate::frame;
use crate::pipeline::report::{FrameReport, Timings};

/// What a synthetic browser does.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    pub server: Target,
    pub clip: Arc<Clip>,
    /// Frames a second.
    pub rate: f64,
    pub duration: Duration,
    /// Sent on the `control` channel when it opens; `null` leaves the settings as they are.
    pub settings: Value,
    /// End as soon as the first report has come.
    pub stop_at_first_report: bool,
    /// The clip is a [`counted`](super::counter::counted) one: decode the annotated track and read its numbers.
    pub reads_counter: bool,
}

/// Why a visit ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error("the service cannot be reached")]
    Unreachable(#[from] TargetError),
    #[error("the service refused: {code}: {message}")]
    Refused { code: String, message: String, retry_after_s: Option<u32> },
    #[error("the service ended the session: {reason}")]
    Ended { reason: String },
    #[error("signalling was lost before media flowed")]
    SignallingLost,
    #[error("the media connection was lost")]
    MediaLost,
    #[error("no report came in time")]
    NoReport,
    #[error("the service speaks something else: {0}")]
    Unexpected(String),
    #[error("the synthetic browser failed")]
    Browser(#[from] RtcError),
    #[error("its socket failed")]
    Socket(#[from] std::io::Error),
}

impl VisitError {
    /// Stable, in snake case.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable(TargetError::Refused { .. }) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Refused { code, .. } => code,
            Self::Ended { .. } => "ended",
            Self::SignallingLost => "signalling_lost",
            Self::MediaLost => "media_lost",
            Self::NoReport => "no_report",
            Self::Unexpected(_) => "unexpected",
            Self::Browser(_) | Self::Socket(_) => "browser",
        }
    }

    /// How long the service asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after_s, .. } => retry_after_s.map(|s| Duration::from_secs(u64::from(s))),
            _ => None,
        }
    }
}

/// How far a publisher runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    FirstReport,
    End,
}

/// Why a publisher has stopped; it can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What it was to run until has come.
    There,
    /// Its time is over.
    TimeUp,
    /// The service asks it to open another session.
    Migrate,
}

/// When, after the offer was sent, each step of joining was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Joining {
    pub answer: Option<Duration>,
    pub ice: Option<Duration>,
    /// DTLS has finished: media may flow.
    pub dtls: Option<Duration>,
    pub channel: Option<Duration>,
    pub first_report: Option<Duration>,
    /// What the server needed for the frame of the first report.
    pub first_report_timings: Timings,
}

/// One report as it came.
#[derive(Clone, Debug)]
pub struct ReportSample {
    /// Since the publisher's start.
    pub at: Duration,
    /// From writing the frame to reading its report.
    pub latency: Duration,
    pub timings: Timings,
    pub tracks: usize,
    /// What was read, each track's.
    pub texts: Vec<String>,
    /// Pixels of the frame, as the service saw it.
    pub size: (u32, u32),
}

/// Losses of the published video, as the service reports them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network {
    pub packets_sent: u64,
    pub packets_lost: u64,
    /// Packets that were asked for again.
    pub nacks: u64,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The session's id, once the service has told it.
    pub session: Option<String>,
    /// When it started, and what the signalling socket took to open.
    pub began: Option<Instant>,
    pub opened: Duration,
    pub joining: Joining,
    /// When each frame was sent, since the publisher's start.
    pub sent_at: Vec<Duration>,
    pub reports: Vec<ReportSample>,
    /// When each annotated picture had come in full, since the publisher's start, and how long after its
    /// frame was written, where the service keeps timestamps.
    pub annotated: Vec<(Duration, Option<Duration>)>,
    /// By the numbers in them, how old annotated pictures were once they were decoded.
    pub glass: Vec<Duration>,
    /// Pictures that the server says newer ones replaced.
    pub dropped: u64,
    pub key_frames_asked: u64,
    /// Times that the session was found again after its signalling was lost under live media.
    pub reattached: u32,
    /// What the service's RTCP says of the frames sent.
    pub network: Network,
    /// Codes of the notices and errors on the `control` channel, at most [`MAX_NOTICES`].
    pub notices: Vec<String>,
    /// When a report first named each model, `name@version`, since the publisher's start; at most [`MAX_NOTICES`].
    pub models: BTreeMap<String, Duration>,
    /// Under which models' reports each label was seen; at most [`MAX_NOTICES`].
    pub labels: BTreeSet<(String, String)>,
    /// What classifiers said of tracks: the track's label, the model's name, its answer; at most [`MAX_NOTICES`].
    pub answers: BTreeSet<[String; 3]>,
}

/// Runs one synthetic browser to its end, whatever the service asks of it meanwhile.
///
/// # Errors
/// When the service refuses or ends the session, or speaks something unexpected.
pub async fn publish(config: PublisherConfig) -> Result<Outcome, VisitError> {
    let until = if config.stop_at_first_report { Until::FirstReport } else { Until::End };
    let mut publisher = Publisher::open(config).await?;
    let stopped = loop {
        match publisher.run(until).await {
            Ok(Stop::Migrate) => {}
            stopped => break stopped,
        }
    };
    publisher.leave().await;
    stopped.map(|_| publisher.outcome)
}

/// A synthetic browser in its session.
pub struct Publisher {
    config: PublisherConfig,
    socket: UdpSocket,
    local: SocketAddr,
    signalling: Signalling,
    /// Brings a new socket back to this session.
    resume: Option<String>,
    rtc: Rtc,
    offer: Option<String>,
    pending: Option<SdpPendingOffer>,
    video: Mid,
    results: ChannelId,
    control: ChannelId,
    began: Instant,
    offered: Instant,
    connected: bool,
    next_frame: usize,
    /// Of the frames, that the service asks for.
    share: f64,
    has_new_share: bool,
    /// RTP timestamp and instant of the frames sent last.
    sent: VecDeque<(u32, Instant)>,
    counter: Option<Reader>,
    pub outcome: Outcome,
    is_asked_to_migrate: bool,
    /// Since when no answer to ICE's checks has come.
    silent_since: Option<Instant>,
    /// The signalling socket was lost, and no front has taken it back yet.
    is_reopening: bool,
}

/// Between looks at what the service says of losses.
const STATS_INTERVAL: Duration = Duration::from_secs(2);

/// How long a connection without answers may be silent before it counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// Notices that are kept.
const MAX_NOTICES: usize = 100;

/// Sent frames that are remembered to be matched with what comes back, however late a service is: a minute of them.
const REMEMBERED_FRAMES: usize = 1800;

impl Publisher {
    /// Opens the session's signalling; nothing is offered yet.
    ///
    /// # Errors
    /// When the service cannot be reached or does not let it in.
    pub async fn open(config: PublisherConfig) -> Result<Self, VisitError> {
        let began = Instant::now();
        let signalling = Signalling::Open(Box::new(config.server.socket(None).await?));
        let socket = UdpSocket::bind((config.server.local_ip().await?, 0)).await?;
        let mut publisher = Self::new(config, socket, signalling)?;
        publisher.outcome.began = Some(began);
        publisher.outcome.opened = began.elapsed();
        Ok(publisher)
    }

    fn new(config: PublisherConfig, socket: UdpSocket, signalling: Signalling) -> Result<Self, VisitError> {
        let now = Instant::now();
        let local = socket.local_addr()?;
        let mut rtc = Rtc::builder().set_stats_interval(Some(STATS_INTERVAL)).build(now);
        let own = Candidate::host(local, "udp").map_err(|error| VisitError::Unexpected(error.to_string()))?;
        rtc.add_local_candidate(own);
        let mut change = rtc.sdp_api();
        let video = change.add_media(MediaKind::Video, Direction::SendRecv, None, None, None);
        let results = change.add_channel_with_config(ChannelConfig {
            label: "results".into(),
            ordered: false,
            reliability: Reliability::MaxRetransmits { retransmits: 0 },
            ..Default::default()
        });
        let control = change.add_channel("control".into());
        let (offer, pending) = change.apply().expect("media and channels were added");
        let counter = config.reads_counter.then(Reader::default);
        Ok(Self {
            config,
            socket,
            local,
            signalling,
            resume: None,
            rtc,
            offer: Some(offer.to_sdp_string()),
            pending: Some(pending),
            video,
            results,
            control,
            began: now,
            offered: now,
            connected: false,
            next_frame: 0,
            share: 1.0,
            has_new_share: false,
            sent: VecDeque::with_capacity(REMEMBERED_FRAMES),
            counter,
            outcome: Outcome::default(),
            is_asked_to_migrate: false,
            silent_since: None,
            is_reopening: false,
        })
    }

    /// Publishes until what it is to wait for has come, and notes what comes back.
    ///
    /// # Errors
    /// When the session is refused, ended or lost.
    pub async fn run(&mut self, until: Until) -> Result<Stop, VisitError> {
        if let Some(offer) = self.offer.take() {
            self.offered = Instant::now();
            let offer = json!({ "type": "offer", "sdp": offer }).to_string();
            self.signalling.send(&offer).await.map_err(|_| VisitError::SignallingLost)?;
        }
        let mut frames = frame_ticks(self.config.rate, self.share);
        let end = self.began + self.config.duration;
        let mut buffer = vec![0; 2000];
        loop {
            let wake = self.drain().await?;
            if until == Until::FirstReport && self.outcome.joining.first_report.is_some() {
                return Ok(Stop::There);
            }
            if Instant::now() >= end {
                return Ok(Stop::TimeUp);
            }
            if std::mem::take(&mut self.has_new_share) {
                frames = frame_ticks(self.config.rate, self.share);
            }
            if std::mem::take(&mut self.is_asked_to_migrate) {
                return Ok(Stop::Migrate);
            }
            if self.silent_since.is_some_and(|since| since.elapsed() > SILENCE_LIMIT) {
                return Err(VisitError::MediaLost);
            }
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, source) = received?;
                    let Ok(contents) = buffer[..length].try_into() else { continue };
                    let receive =
                        Receive { proto: Protocol::Udp, source, destination: self.local, contents };
                    self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
                }
                () = tokio::time::sleep_until(wake.min(end).into()) => {
                    self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
                received = self.signalling.next() => self.handle_received(received)?,
                _ = frames.tick(), if self.connected => self.send_frame()?,
            }
        }
    }

    fn handle_received(&mut self, received: Received) -> Result<(), VisitError> {
        match received {
            Received::Text(text) => self.handle_signalling(&text),
            // Media does not pass through the front, which may be restarted meanwhile.
            Received::Closed
                if self.connected
                    && let Some(resume) = &self.resume =>
            {
                let is_first_try = !std::mem::replace(&mut self.is_reopening, true);
                self.signalling =
                    Signalling::reopen(self.config.server.clone(), resume.clone(), is_first_try);
                Ok(())
            }
            Received::Closed => Err(VisitError::SignallingLost),
            Received::Refused => Err(VisitError::MediaLost),
        }
    }

    /// Sends and handles everything that is due; returns when to look again.
    async fn drain(&mut self) -> Result<Instant, VisitError> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(packet) => {
                    // A packet that cannot be sent is lost, as on a network: a worker's address may be unroutable.
                    let _ = self.socket.send_to(&packet.contents, packet.destination).await;
                }
                Output::Event(event) => self.handle_event(event)?,
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), VisitError> {
        let elapsed = self.offered.elapsed();
        let joining = &mut self.outcome.joining;
        match event {
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) => {
                joining.ice.get_or_insert(elapsed);
                self.silent_since = None;
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.silent_since = Some(Instant::now());
            }
            Event::MediaEgressStats(stats) => {
                let lost = stats.remote.map_or(0, |remote| remote.packets_lost);
                // A count that went below zero by duplicates comes as a very large one (RFC 3550 §6.4.1).
                let packets_lost = if lost > stats.packets { 0 } else { lost };
                self.outcome.network =
                    Network { packets_sent: stats.packets, packets_lost, nacks: stats.nacks };
            }
            Event::Connected => {
                self.connected = true;
                joining.dtls.get_or_insert(elapsed);
            }
            Event::ChannelOpen(id, _) if id == self.results => {
                joining.channel.get_or_insert(elapsed);
            }
            Event::ChannelOpen(id, _) if id == self.control && !self.config.settings.is_null() => {
                let mut settings = self.config.settings.clone();
                settings["type"] = "settings".into();
                if let Some(mut channel) = self.rtc.channel(id) {
                    channel.write(false, settings.to_string().as_bytes())?;
                }
            }
            Event::ChannelData(data) if data.id == self.results => {
                let report = serde_json::from_slice(&data.data).map_err(unexpected)?;
                self.note_report(&report);
            }
            Event::ChannelData(data) if data.id == self.control => {
                let message: Value = serde_json::from_slice(&data.data).map_err(unexpected)?;
                if let Some(code) = message["code"].as_str() {
                    self.note_notice(code);
                }
            }
            Event::MediaData(data) => {
                let sent = self.sent_at(data.time.numer() as u32);
                self.outcome.annotated.push((self.began.elapsed(), sent.map(|sent| sent.elapsed())));
                let codec = frame::Codec::from_mime(&format!("video/{}", data.params.spec().codec));
                if let (Some(counter), Some(codec)) = (&mut self.counter, codec) {
                    self.outcome.glass.extend(counter.age(codec, &data.data));
                }
            }
            Event::KeyframeRequest(_) => {
                self.outcome.key_frames_asked += 1;
                self.next_frame = 0;
            }
            _ => {}
        }
        Ok(())
    }

    fn note_report(&mut self, report: &FrameReport) {
        let joining = &mut self.outcome.joining;
        if joining.first_report.is_none() {
            joining.first_report = Some(self.offered.elapsed());
            joining.first_report_timings = report.timings_ms;
        }
        self.outcome.dropped = report.dropped;
        self.note_names(report);
        if let Some(sent) = self.sent_at(report.rtp_timestamp) {
            let texts = report.tracks.iter().filter_map(|track| track.attributes.text.as_ref());
            let texts = texts.map(|text| text.label.clone()).collect();
            self.outcome.reports.push(ReportSample {
                at: self.began.elapsed(),
                latency: sent.elapsed(),
                timings: report.timings_ms,
                tracks: report.tracks.len(),
                texts,
                size: (report.width, report.height),
            });
        }
    }

    fn note_notice(&mut self, code: &str) {
        if self.outcome.notices.len() < MAX_NOTICES {
            self.outcome.notices.push(code.to_owned());
        }
        let share = match code {
            "camera_full" => 1.0,
            "camera_half_rate" => 0.5,
            "camera_quarter_rate" => 0.25,
            _ => return,
        };
        self.has_new_share = share != self.share;
        self.share = share;
    }

    fn note_names(&mut self, report: &FrameReport) {
        let (at, Outcome { models, labels, answers, .. }) = (self.began.elapsed(), &mut self.outcome);
        for track in &report.tracks {
            for (model, answer) in &track.attributes.classes {
                if answers.len() < MAX_NOTICES {
                    answers.insert([track.label.clone(), model.clone(), answer.label.clone()]);
                }
            }
        }
        for (name, version) in &report.models {
            let model = format!("{name}@{version}");
            for track in &report.tracks {
                if labels.len() < MAX_NOTICES {
                    labels.insert((model.clone(), track.label.clone()));
                }
            }
            if models.len() < MAX_NOTICES {
                models.entry(model).or_insert(at);
            }
        }
    }

    fn sent_at(&self, rtp_timestamp: u32) -> Option<Instant> {
        self.sent.iter().rev().find(|(timestamp, _)| *timestamp == rtp_timestamp).map(|(_, at)| *at)
    }

    fn handle_signalling(&mut self, text: &str) -> Result<(), VisitError> {
        // Messages of a newer service are skipped, as a page does.
        let Ok(message) = serde_json::from_str(text) else { return Ok(()) };
        match message {
            ServerMessage::Welcome { session, resume, .. } => {
                self.outcome.session = Some(session);
                if self.resume.is_some() {
                    self.outcome.reattached += 1;
                }
                self.is_reopening = false;
                self.resume = Some(resume);
            }
            ServerMessage::Answer { sdp } => {
                self.outcome.joining.answer.get_or_insert(self.offered.elapsed());
                if let Some(pending) = self.pending.take() {
                    let answer = SdpAnswer::from_sdp_string(&sdp).map_err(unexpected)?;
                    self.rtc.sdp_api().accept_answer(pending, answer)?;
                }
            }
            ServerMessage::Candidate(candidate) => {
                if let Ok(candidate) = Candidate::from_sdp_string(&candidate.candidate) {
                    self.rtc.add_remote_candidate(candidate);
                }
            }
            ServerMessage::Migrate => self.is_asked_to_migrate = true,
            // The front found no worker just now; it closes the socket, and another try is made.
            ServerMessage::Error { code, .. } if self.is_reopening && code != "unknown_session" => {}
            ServerMessage::Error { code, message, retry_after_s } => {
                return Err(VisitError::Refused { code, message, retry_after_s });
            }
            ServerMessage::Bye { reason } => return Err(VisitError::Ended { reason }),
        }
        Ok(())
    }

    fn send_frame(&mut self) -> Result<(), VisitError> {
        let now = Instant::now();
        let media_ticks = (now.duration_since(self.began).as_micros() as u64) * 9 / 100;
        let Some(writer) = self.rtc.writer(self.video) else { return Ok(()) };
        let payload = writer.payload_params().find(|p| p.spec().codec == Codec::Vp8).map(|p| p.pt());
        let payload = payload.ok_or_else(|| VisitError::Unexpected("VP8 was not negotiated".into()))?;
        let frames = &self.config.clip.frames;
        let number = self.next_frame % frames.len();
        let frame = frames[number].clone();
        if let Some(counter) = &mut self.counter {
            counter.note_sent(number as u16, now);
        }
        writer.write(payload, now, MediaTime::from_90khz(media_ticks), frame.to_vec())?;
        self.next_frame += 1;
        self.outcome.sent_at.push(now.duration_since(self.began));
        if self.sent.len() == REMEMBERED_FRAMES {
            self.sent.pop_front();
        }
        self.sent.push_back((media_ticks as u32, now));
        Ok(())
    }

    /// Says goodbye, so that the service need not wait for a time-out.
    pub async fn leave(&mut self) {
        let _ = self.signalling.send(r#"{"type":"bye"}"#).await;
        self.signalling.close().await;
    }
}

fn frame_ticks(rate: f64, share: f64) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / (rate * share)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

fn unexpected(error: impl std::fmt::Display) -> VisitError {
    VisitError::Unexpected(error.to_string())
}
