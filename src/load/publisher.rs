//! One synthetic browser: joins a session, publishes a clip in real time, and notes what comes back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};
use tokio::net::{TcpStream, UdpSocket};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::clip::Clip;
use crate::pipeline::report::{FrameReport, Timings};

/// What a synthetic browser does.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// Where the service listens.
    pub server: SocketAddr,
    pub clip: Arc<Clip>,
    /// Frames a second.
    pub rate: f64,
    pub duration: Duration,
    /// Sent on the `control` channel when it opens; `null` leaves the settings as they are.
    pub settings: Value,
    /// End as soon as the first report has come.
    pub stop_at_first_report: bool,
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
#[derive(Clone, Copy, Debug)]
pub struct ReportSample {
    /// Since the publisher's start.
    pub at: Duration,
    /// From writing the frame to reading its report.
    pub latency: Duration,
    pub timings: Timings,
    pub tracks: usize,
    /// Pixels of the frame, as the service saw it.
    pub size: (u32, u32),
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub joining: Joining,
    /// When each frame was sent, since the publisher's start.
    pub sent_at: Vec<Duration>,
    pub reports: Vec<ReportSample>,
    /// When each annotated picture had come in full, since the publisher's start, and how long after its
    /// frame was written.
    pub annotated: Vec<(Duration, Duration)>,
    /// Pictures that the server says newer ones replaced.
    pub dropped: u64,
    pub key_frames_asked: u64,
    /// Times that the session was found again after its signalling was lost under live media.
    pub reattached: u32,
    /// Codes of the notices and errors on the `control` channel, at most [`MAX_NOTICES`].
    pub notices: Vec<String>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The signalling of a session, which its media outlives.
enum Signalling {
    Open(Box<Socket>),
    /// Tries until a front takes it.
    Reopening(Pin<Box<dyn Future<Output = Box<Socket>> + Send>>),
}

/// Between attempts to reopen the signalling socket, as a page waits.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

impl Signalling {
    /// The next message; waits while the socket is being reopened.
    async fn next(&mut self) -> Option<Result<Message, SocketError>> {
        loop {
            match self {
                Self::Open(socket) => return socket.next().await,
                Self::Reopening(opening) => *self = Self::Open(opening.await),
            }
        }
    }

    fn reopen(server: SocketAddr, resume: &str) -> Self {
        let url = format!("ws://{server}/api/session?resume={resume}");
        Self::Reopening(Box::pin(async move {
            loop {
                if let Ok((socket, _)) = tokio_tungstenite::connect_async(&url).await {
                    return Box::new(socket);
                }
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
        }))
    }

    async fn send(&mut self, message: Message) -> Result<(), SocketError> {
        match self {
            Self::Open(socket) => socket.send(message).await,
            Self::Reopening(_) => Ok(()),
        }
    }
}

/// Runs one synthetic browser to its end.
///
/// # Errors
/// When the service refuses or ends the session, or speaks something unexpected.
pub async fn publish(config: PublisherConfig) -> anyhow::Result<Outcome> {
    let url = format!("ws://{}/api/session", config.server);
    let (signalling, _) = tokio_tungstenite::connect_async_with_config(&url, None, true)
        .await
        .context("opening the session")?;
    let socket = UdpSocket::bind((config.server.ip(), 0)).await?;
    let mut publisher = Publisher::new(config, socket, Signalling::Open(Box::new(signalling)))?;
    let outcome = publisher.run().await;
    publisher.leave().await;
    outcome?;
    Ok(publisher.outcome)
}

struct Publisher {
    config: PublisherConfig,
    socket: UdpSocket,
    local: SocketAddr,
    signalling: Signalling,
    /// Brings a new socket back to this session.
    resume: Option<String>,
    rtc: Rtc,
    offer: String,
    pending: Option<SdpPendingOffer>,
    video: Mid,
    results: ChannelId,
    control: ChannelId,
    began: Instant,
    offered: Instant,
    connected: bool,
    next_frame: usize,
    /// RTP timestamp and instant of the frames sent last.
    sent: VecDeque<(u32, Instant)>,
    outcome: Outcome,
}

/// Notices that are kept.
const MAX_NOTICES: usize = 100;

/// Sent frames that are remembered to be matched with what comes back: ten seconds of them.
const REMEMBERED_FRAMES: usize = 300;

impl Publisher {
    fn new(config: PublisherConfig, socket: UdpSocket, signalling: Signalling) -> anyhow::Result<Self> {
        let now = Instant::now();
        let local = socket.local_addr()?;
        let mut rtc = Rtc::builder().build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let mut change = rtc.sdp_api();
        let video = change.add_media(MediaKind::Video, Direction::SendRecv, None, None, None);
        let results = change.add_channel_with_config(ChannelConfig {
            label: "results".into(),
            ordered: false,
            reliability: Reliability::MaxRetransmits { retransmits: 0 },
            ..Default::default()
        });
        let control = change.add_channel("control".into());
        let (offer, pending) = change.apply().context("making an offer")?;
        Ok(Self {
            config,
            socket,
            local,
            signalling,
            resume: None,
            rtc,
            offer: offer.to_sdp_string(),
            pending: Some(pending),
            video,
            results,
            control,
            began: now,
            offered: now,
            connected: false,
            next_frame: 0,
            sent: VecDeque::with_capacity(REMEMBERED_FRAMES),
            outcome: Outcome::default(),
        })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let offer = json!({ "type": "offer", "sdp": self.offer });
        self.offered = Instant::now();
        self.signalling.send(Message::text(offer.to_string())).await?;

        let mut frames = tokio::time::interval(Duration::from_secs_f64(1.0 / self.config.rate));
        frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let end = self.began + self.config.duration;
        let mut buffer = vec![0; 2000];
        loop {
            let wake = self.drain().await?;
            let done = self.config.stop_at_first_report && self.outcome.joining.first_report.is_some();
            if done || Instant::now() >= end {
                return Ok(());
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
                message = self.signalling.next() => match message {
                    Some(Ok(Message::Text(text))) => self.handle_signalling(&text)?,
                    Some(Ok(_)) => {}
                    lost => match &self.resume {
                        // Media does not pass through the front, which may be restarted meanwhile.
                        Some(resume) if self.connected => {
                            self.signalling = Signalling::reopen(self.config.server, resume);
                        }
                        _ => bail!("the service closed the session: {lost:?}"),
                    },
                },
                _ = frames.tick(), if self.connected => self.send_frame()?,
            }
        }
    }

    /// Sends and handles everything that is due; returns when to look again.
    async fn drain(&mut self) -> anyhow::Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(packet) => {
                    self.socket.send_to(&packet.contents, packet.destination).await?;
                }
                Output::Event(event) => self.handle_event(event)?,
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> anyhow::Result<()> {
        let elapsed = self.offered.elapsed();
        let joining = &mut self.outcome.joining;
        match event {
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) => {
                joining.ice.get_or_insert(elapsed);
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
                let mut channel = self.rtc.channel(id).context("the control channel is open")?;
                channel.write(false, settings.to_string().as_bytes())?;
            }
            Event::ChannelData(data) if data.id == self.results => {
                let report = serde_json::from_slice(&data.data).context("reading a report")?;
                self.note_report(&report);
            }
            Event::ChannelData(data) if data.id == self.control => {
                let message: Value = serde_json::from_slice(&data.data).context("reading a notice")?;
                let notices = &mut self.outcome.notices;
                if let (Some(code), true) = (message["code"].as_str(), notices.len() < MAX_NOTICES) {
                    notices.push(code.to_owned());
                }
            }
            Event::MediaData(data) => {
                if let Some(sent) = self.sent_at(data.time.numer() as u32) {
                    self.outcome.annotated.push((self.began.elapsed(), sent.elapsed()));
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
        if let Some(sent) = self.sent_at(report.rtp_timestamp) {
            self.outcome.reports.push(ReportSample {
                at: self.began.elapsed(),
                latency: sent.elapsed(),
                timings: report.timings_ms,
                tracks: report.tracks.len(),
                size: (report.width, report.height),
            });
        }
    }

    fn sent_at(&self, rtp_timestamp: u32) -> Option<Instant> {
        self.sent.iter().rev().find(|(timestamp, _)| *timestamp == rtp_timestamp).map(|(_, at)| *at)
    }

    fn handle_signalling(&mut self, text: &str) -> anyhow::Result<()> {
        let message: Value = serde_json::from_str(text).context("reading a signalling message")?;
        match message["type"].as_str() {
            Some("welcome") => {
                let resume = message["resume"].as_str().map(str::to_owned);
                if self.resume.is_some() {
                    self.outcome.reattached += 1;
                }
                self.resume = resume;
            }
            Some("answer") => {
                self.outcome.joining.answer.get_or_insert(self.offered.elapsed());
                let sdp = message["sdp"].as_str().unwrap_or_default();
                if let Some(pending) = self.pending.take() {
                    let answer = SdpAnswer::from_sdp_string(sdp)?;
                    self.rtc.sdp_api().accept_answer(pending, answer)?;
                }
            }
            Some("candidate") => {
                let text = message["candidate"].as_str().unwrap_or_default();
                if let Ok(candidate) = Candidate::from_sdp_string(text) {
                    self.rtc.add_remote_candidate(candidate);
                }
            }
            Some("error") => bail!("the service refused: {}", message["message"]),
            Some("bye") => bail!("the service ended the session: {}", message["reason"]),
            _ => {}
        }
        Ok(())
    }

    fn send_frame(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let media_ticks = (now.duration_since(self.began).as_micros() as u64) * 9 / 100;
        let Some(writer) = self.rtc.writer(self.video) else { return Ok(()) };
        let payload = writer.payload_params().find(|p| p.spec().codec == Codec::Vp8).map(|p| p.pt());
        let payload = payload.context("VP8 was not negotiated")?;
        let frames = &self.config.clip.frames;
        let frame = frames[self.next_frame % frames.len()].clone();
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
    async fn leave(&mut self) {
        let _ = self.signalling.send(Message::text(r#"{"type":"bye"}"#)).await;
        if let Signalling::Open(socket) = &mut self.signalling {
            let _ = socket.close().await;
        }
    }
}
