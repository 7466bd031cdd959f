//! A page, or a WHIP or WHEP client, on str0m, whose signalling the test does by hand.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};
use tokio::net::UdpSocket;
use vigie::load::clip::Clip;

/// Between two looks at what a test waits for.
const LOOK: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(60);
const FRAME: Duration = Duration::from_millis(66);

pub struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    video: Mid,
    clip: Option<Clip>,
    next_frame: usize,
    pending: Option<SdpPendingOffer>,
    made: Option<String>,
    began: Instant,
    pub is_connected: bool,
    /// The channel of reports is.
    pub is_open: bool,
    /// ICE has come about again after a restart.
    pub was_reconnected: bool,
    is_restarting: bool,
    pub pictures: usize,
    pub reports: usize,
    /// What ended it.
    pub fault: Option<String>,
    /// Of the tracks in reports.
    pub kinds: BTreeSet<String>,
}

impl Peer {
    /// Sends the built-in clip.
    pub async fn publisher() -> Self {
        Self::new(Direction::SendOnly, Some(Clip::built_in()), false).await
    }

    /// Sends the built-in clip, and receives reports.
    pub async fn page() -> Self {
        Self::new(Direction::SendOnly, Some(Clip::built_in()), true).await
    }

    /// Receives video and reports.
    pub async fn viewer() -> Self {
        Self::new(Direction::RecvOnly, None, true).await
    }

    async fn new(direction: Direction, clip: Option<Clip>, has_results: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = socket.local_addr().unwrap();
        let mut rtc = Rtc::builder().build(Instant::now());
        let mut change = rtc.sdp_api();
        let video = change.add_media(MediaKind::Video, direction, None, None, None);
        if has_results {
            change.add_channel("results".into());
        }
        let (offer, pending) = change.apply().unwrap();
        Self {
            rtc,
            socket,
            local,
            video,
            clip,
            next_frame: 0,
            pending: Some(pending),
            made: Some(offer.to_sdp_string()),
            began: Instant::now(),
            is_connected: false,
            is_open: false,
            was_reconnected: false,
            is_restarting: false,
            pictures: 0,
            reports: 0,
            fault: None,
            kinds: BTreeSet::new(),
        }
    }

    /// The offer; candidates come in fragments.
    pub fn offer(&mut self) -> String {
        self.made.clone().unwrap()
    }

    pub fn add_candidate(&mut self) {
        self.rtc.add_local_candidate(Candidate::host(self.local, "udp").unwrap());
    }

    /// What a PATCH says of this peer, whose newest offer is `offer`.
    pub fn fragment(&self, offer: &str) -> String {
        let (ufrag, password) = credentials(offer);
        let candidate = Candidate::host(self.local, "udp").unwrap().to_sdp_string();
        format!(
            "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
             a={}\r\n",
            candidate.trim_start_matches("a=")
        )
    }

    /// Takes a candidate of the other side's.
    pub fn hear(&mut self, candidate: &str) {
        self.rtc.add_remote_candidate(Candidate::from_sdp_string(candidate).unwrap());
    }

    pub fn accept(&mut self, answer: &str) {
        let answer = SdpAnswer::from_sdp_string(answer).unwrap();
        self.rtc.sdp_api().accept_answer(self.pending.take().unwrap(), answer).unwrap();
    }

    pub fn offer_restart(&mut self) -> String {
        let mut change = self.rtc.sdp_api();
        change.ice_restart(true);
        let (offer, pending) = change.apply().unwrap();
        self.pending = Some(pending);
        self.is_restarting = true;
        offer.to_sdp_string()
    }

    /// Takes the server's half of a new ICE session up into its first answer.
    pub fn accept_restart(&mut self, answer: &str, fragment: &str) {
        let ((old_ufrag, old_password), (ufrag, password)) = (credentials(answer), credentials(fragment));
        let renewed = answer.replace(&old_ufrag, &ufrag).replace(&old_password, &password);
        self.accept(&renewed);
    }

    /// Plays its part until `holds`, which is looked at every tenth of a second.
    pub async fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds(self) {
            assert_eq!(self.fault, None);
            assert!(Instant::now() < deadline, "not in time: {what}");
            self.run_for(LOOK).await;
        }
    }

    pub async fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut buffer = vec![0; 2000];
        while Instant::now() < end {
            if self.fault.is_some() {
                return tokio::time::sleep_until(end.into()).await;
            }
            let wake = self.drain().await;
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, source) = received.unwrap();
                    let Ok(contents) = buffer[..length].try_into() else { continue };
                    let receive =
                        Receive { proto: Protocol::Udp, source, destination: self.local, contents };
                    self.take_in(Input::Receive(Instant::now(), receive));
                }
                () = tokio::time::sleep_until(wake.min(end).into()) => {
                    self.take_in(Input::Timeout(Instant::now()));
                }
                _ = frames.tick(), if self.is_connected && self.clip.is_some() => self.send_frame(),
            }
        }
    }

    fn take_in(&mut self, input: Input) {
        self.fault = self.rtc.handle_input(input).err().map(|error| error.to_string());
    }

    async fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at,
                Output::Transmit(packet) => {
                    self.socket.send_to(&packet.contents, packet.destination).await.unwrap();
                }
                Output::Event(event) => self.note(event),
            }
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Connected => self.is_connected = true,
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) => self.was_reconnected |= self.is_restarting,
            Event::ChannelOpen(..) => self.is_open = true,
            Event::MediaData(_) => self.pictures += 1,
            Event::KeyframeRequest(_) => self.next_frame = 0,
            Event::ChannelData(data) => {
                let report: Value = serde_json::from_slice(&data.data).unwrap();
                self.reports += 1;
                let tracks = report["tracks"].as_array().unwrap().iter();
                self.kinds.extend(tracks.map(|track| track["kind"].as_str().unwrap().to_owned()));
            }
            _ => {}
        }
    }

    fn send_frame(&mut self) {
        let frames = &self.clip.as_ref().unwrap().frames;
        let frame = frames[self.next_frame % frames.len()].to_vec();
        let now = Instant::now();
        let ticks = (now.duration_since(self.began).as_micros() as u64) * 9 / 100;
        let Some(writer) = self.rtc.writer(self.video) else { return };
        let Some(vp8) = writer.payload_params().find(|p| p.spec().codec == Codec::Vp8).map(|p| p.pt()) else {
            return;
        };
        writer.write(vp8, now, MediaTime::from_90khz(ticks), frame).unwrap();
        self.next_frame += 1;
    }
}

/// Username fragment and password of a description or a fragment of one.
pub fn credentials(sdp: &str) -> (String, String) {
    let value = |name: &str| {
        let line = sdp.lines().find_map(|line| line.strip_prefix(&format!("a={name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {sdp}")).to_owned()
    };
    (value("ice-ufrag"), value("ice-pwd"))
}
