//! A peer connection: the only folder that names the WebRTC library.
//!
//! Answers a browser's offers, hands its first video track over as RTP packets, carries the
//! annotated track back, and the data channels. It knows no codec beyond its name, and no picture.
//!
//! Contract
//! 1. [`Peer::open`] with the first offer, then [`Peer::answer`] for it and for every later one.
//! 2. What happens arrives on the bounded channel of [`PeerEvent`]s.
//! 3. After [`Peer::close`], tracks and channels return `None`; nothing keeps the peer alive. A peer that is dropped
//!    unclosed, because a request was broken off or a task panicked, is closed then.

mod feedback;
mod packets;
mod prompt;
mod tap;
mod verified;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rtc::dtls::cipher_suite::CipherSuiteId;
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::interceptor::{NackGeneratorBuilder, NackResponderBuilder, Slot};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::RTCDtlsTransportState;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::shared::error::Error as RtcError;
use tokio::sync::{mpsc, watch};
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceCandidateInit, RTCIceConnectionState, RTCIceGatheringState, RTCPeerConnectionIceEvent,
    RTCPeerConnectionState, Registry, SettingEngineBuilder, configure_rtcp_reports,
    configure_simulcast_extension_headers, configure_twcc_receiver_only,
};
use webrtc::rtp_transceiver::RtpSender;

pub use feedback::Feedback;
use feedback::FeedbackTap;
use packets::PacketCutter;
use prompt::{Prompt, PromptRuntime};
use tap::Tapped;

use crate::cluster::protocol::Candidate;
use crate::frame::Codec;
use crate::rtp::{DEFAULT_MTU, Packet, Packetiser};

/// A missing packet is asked for this often, at most [`NACKS_PER_PACKET`] times: with the library's
/// defaults, which do not see packets recovered by RTX, 1 % loss causes a tenfold of requests.
const NACK_INTERVAL: Duration = Duration::from_millis(30);
const NACKS_PER_PACKET: u16 = 4;

/// ICE: no answer for the first means disconnected, for the second failed; the third keeps NATs open.
const ICE_DISCONNECTED: Duration = Duration::from_secs(5);
const ICE_FAILED: Duration = Duration::from_secs(15);
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);
/// How the handshake is encrypted: authenticated ciphers with forward secrecy alone, by the first of which RFC 8827 §6.5
/// has every browser speak; clients with an RSA certificate (GStreamer) need the second.
const CIPHERS: [CipherSuiteId; 3] = [
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
    CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
];
/// How media is: the last is what RFC 8827 §6.5 demands of all. None with a tag of 32 bits, which can be guessed.
const PROFILES: [SrtpProtectionProfile; 3] = [
    SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
    SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
    SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
];
/// Host candidates are there at once; longer than this no client is kept waiting.
const GATHERING_LIMIT: Duration = Duration::from_secs(2);

/// Events that may wait for the session; a peer that causes more (candidates, channels) loses them.
const EVENT_CAPACITY: usize = 64;

/// Why a peer connection could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the offer has no video that can be decoded here (VP8, VP9, H264 or AV1)")]
    NoVideo,
    #[error("the offer is not usable: {0}")]
    Offer(#[source] RtcError),
    #[error("the candidate is not usable: {0}")]
    Candidate(#[source] RtcError),
    #[error("the peer connection could not be set up: {0}")]
    Setup(#[source] RtcError),
}

/// Where media is received, and which servers help to get there.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// UDP addresses to bind; port 0 is any, and 0.0.0.0 every interface but loopback.
    pub addresses: Vec<String>,
    /// The annotated track's codec: the first of these that the browser can receive.
    pub annotated_codecs: Vec<Codec>,
}

/// What a peer connection reports.
pub enum PeerEvent {
    Candidate(Candidate),
    /// Media and data flow.
    Connected,
    /// No answer from the browser for a while; it may come back.
    Disconnected,
    /// It will not come back without an ICE restart.
    Failed,
    Closed,
    /// The first video track of the browser.
    Track(RemoteTrack),
    Channel(Channel),
}

/// One browser's peer connection.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    sender: Option<Arc<dyn RtpSender>>,
    outgoing: OutgoingTrack,
    /// Payload type → codec, as negotiated.
    codecs: Arc<Mutex<HashMap<u8, Codec>>>,
    gathering: watch::Sender<RTCIceGatheringState>,
    is_closed: AtomicBool,
}

/// The library's own task holds on to the connection, and to its sockets, until it is closed.
impl Drop for Peer {
    fn drop(&mut self) {
        if *self.is_closed.get_mut() {
            return;
        }
        let connection = Arc::clone(&self.connection);
        // Without a runtime that task has gone as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { close(&*connection).await });
        }
    }
}

impl Peer {
    /// Prepares a connection that can answer `offer`; `events` must be read until the peer is closed.
    pub async fn open(
        config: &PeerConfig,
        offer: &str,
    ) -> Result<(Self, mpsc::Receiver<PeerEvent>), PeerError> {
        let offered = offered_codecs(offer);
        if offered.is_empty() {
            return Err(PeerError::NoVideo);
        }
        let sendable = config.annotated_codecs.iter().filter(|codec| offered.contains(codec));
        let annotated =
            sendable.copied().find_map(|codec| Some((codec, Packetiser::new(codec, DEFAULT_MTU)?)));

        let feedback = Feedback::default();
        let mut media = MediaEngine::default();
        media.register_default_codecs().map_err(PeerError::Setup)?;
        let (ssrc, codec) = (rand::random(), annotated.as_ref().map_or(Codec::Vp8, |(codec, _)| *codec));
        let cutter = annotated.map(|(_, packetiser)| PacketCutter::new(ssrc, packetiser));
        let is_sending = cutter.is_some();
        let registry = interceptors(&mut media, feedback.clone(), cutter).map_err(PeerError::Setup)?;
        let settings = SettingEngineBuilder::new()
            // The page may be on this very machine.
            .with_include_loopback_candidate(true)
            // Resolving .local names would open a multicast socket for each session; those peers
            // still connect, as peer-reflexive candidates.
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .with_dtls_cipher_suites(CIPHERS.to_vec())
            .with_srtp_protection_profiles(PROFILES.to_vec())
            .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE))
            .build();

        let (events_sender, events) = mpsc::channel(EVENT_CAPACITY);
        let codecs = Arc::new(Mutex::new(HashMap::new()));
        let prompt = Prompt::default();
        let gathering = watch::Sender::new(RTCIceGatheringState::New);
        let handler = Handler {
            events: events_sender,
            codecs: Arc::clone(&codecs),
            feedback: feedback.clone(),
            prompt: prompt.clone(),
            has_video: Arc::default(),
            gathering: gathering.clone(),
        };
        let builder = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_setting_engine(settings)
            .with_media_engine(media)
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(handler))
            .with_runtime(Arc::new(PromptRuntime(prompt)))
            .with_udp_addrs(config.addresses.clone())
            // Results are small and dropped when the browser is slow; nothing may pile up here.
            .with_data_channel_send_buffer_limit(256 * 1024);
        // A task of its own goes on to the end, where a peer that nobody waits for any longer is closed: half a
        // connection cannot be.
        let opening = tokio::spawn(async move {
            let mut peer = Self {
                connection: Arc::new(builder.build().await?),
                sender: None,
                outgoing: OutgoingTrack::new(ssrc, codec, feedback),
                codecs,
                gathering,
                is_closed: AtomicBool::new(false),
            };
            if is_sending {
                let track = Arc::clone(&peer.outgoing.track) as Arc<dyn TrackLocal>;
                peer.sender = Some(peer.connection.add_track(track).await?);
            }
            Ok(peer)
        });
        let ended = opening.await.unwrap_or_else(|error| Err(RtcError::Other(error.to_string())));
        Ok((ended.map_err(PeerError::Setup)?, events))
    }

    /// Applies an offer and returns the answer; candidates follow as events.
    pub async fn answer(&self, offer: &str) -> Result<String, PeerError> {
        let offer = RTCSessionDescription::offer(offer.to_owned()).map_err(PeerError::Offer)?;
        self.connection.set_remote_description(offer).await.map_err(PeerError::Offer)?;
        let answer = self.connection.create_answer(None).await.map_err(PeerError::Offer)?;
        self.gathering.send_replace(RTCIceGatheringState::New);
        self.connection.set_local_description(answer).await.map_err(PeerError::Offer)?;
        let sdp = self.connection.local_description().await.map(|d| d.sdp).unwrap_or_default();

        *self.codecs.lock().expect("no code panics with the codec table") = video_codecs(&sdp);
        if let Some(sender) = &self.sender {
            let parameters = sender.get_parameters().await.map_err(PeerError::Setup)?;
            let wanted = self.outgoing.codec;
            let chosen = parameters
                .rtp_parameters
                .codecs
                .iter()
                .find(|c| Codec::from_mime(&c.rtp_codec.mime_type) == Some(wanted));
            if let Some(chosen) = chosen {
                self.outgoing.payload_type.store(chosen.payload_type, Ordering::Relaxed);
            }
        }
        Ok(sdp)
    }

    /// The answer given last, with every candidate: for a client that is told of none later.
    pub async fn gathered_answer(&self) -> String {
        let mut gathering = self.gathering.subscribe();
        let complete = gathering.wait_for(|state| *state == RTCIceGatheringState::Complete);
        if tokio::time::timeout(GATHERING_LIMIT, complete).await.is_err() {
            tracing::warn!("gathering candidates takes long; those that there are must do");
        }
        self.connection.local_description().await.map(|d| d.sdp).unwrap_or_default()
    }

    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), PeerError> {
        let candidate = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
            ..Default::default()
        };
        self.connection.add_ice_candidate(candidate).await.map_err(PeerError::Candidate)
    }

    /// Whether the other side has closed the connection, and not only fallen silent (RFC 8827 §6.5: DTLS's
    /// `close_notify`, of which the library makes no event).
    pub async fn was_closed(&self) -> bool {
        for receiver in self.connection.get_receivers().await {
            if let Ok(Some(transport)) = receiver.transport().await {
                return transport.state().await.is_ok_and(|state| state == RTCDtlsTransportState::Closed);
            }
        }
        false
    }

    /// The annotated track, if the browser can receive one of the configured codecs.
    pub fn outgoing(&self) -> Option<OutgoingTrack> {
        self.sender.as_ref().map(|_| self.outgoing.clone())
    }

    pub async fn close(&self) {
        close(&*self.connection).await;
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

async fn close(connection: &dyn PeerConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "closing a peer connection");
    }
}

fn interceptors(
    media: &mut MediaEngine,
    feedback: Feedback,
    cutter: Option<PacketCutter>,
) -> Result<Registry, RtcError> {
    configure_simulcast_extension_headers(media)?;
    let registry = configure_twcc_receiver_only(Registry::new(), media)?;
    let nacks = NackGeneratorBuilder::new()
        .with_interval(NACK_INTERVAL)
        .with_max_nacks_per_packet(NACKS_PER_PACKET)
        .build();
    let registry = configure_rtcp_reports(registry)
        .with(Slot::NackResponder, NackResponderBuilder::new().build())
        .with(Slot::NackGenerator, nacks)
        .with(Slot::from(APPLICATION_SLOT), Tapped::new(FeedbackTap(feedback)));
    Ok(match cutter {
        Some(cutter) => registry.with(Slot::from(APPLICATION_SLOT + 1), Tapped::new(cutter)),
        None => registry,
    })
}

/// Beyond every slot of the library: the last to see what came in, the first to see what goes out.
const APPLICATION_SLOT: usize = 60_000;

/// The video codecs that an offer names.
pub fn offered_codecs(offer: &str) -> Vec<Codec> {
    video_codecs(offer).into_values().collect()
}

/// Payload types of the video codecs in an SDP's `a=rtpmap` lines (RFC 8866 §6.6).
fn video_codecs(sdp: &str) -> HashMap<u8, Codec> {
    let maps = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=rtpmap:"));
    let entries = maps.filter_map(|map| {
        let (payload_type, encoding) = map.split_once(' ')?;
        let name = encoding.split('/').next()?;
        Some((payload_type.parse().ok()?, Codec::from_mime(&format!("video/{name}"))?))
    });
    entries.collect()
}

/// The library calls this on the connection's own task: nothing here may wait.
struct Handler {
    events: mpsc::Sender<PeerEvent>,
    codecs: Arc<Mutex<HashMap<u8, Codec>>>,
    feedback: Feedback,
    prompt: Prompt,
    has_video: Arc<AtomicBool>,
    gathering: watch::Sender<RTCIceGatheringState>,
}

impl Handler {
    fn emit(&self, event: PeerEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("a peer event was dropped: the session is ending or flooded");
        }
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(init) = event.candidate.to_json() {
            self.emit(PeerEvent::Candidate(Candidate {
                candidate: init.candidate,
                // Everything is bundled on the first media section.
                sdp_mid: Some("0".to_owned()),
                sdp_m_line_index: Some(0),
                username_fragment: None,
            }));
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.gathering.send_replace(state);
        if state == RTCIceGatheringState::Complete {
            self.emit(PeerEvent::Candidate(Candidate {
                candidate: String::new(),
                sdp_mid: Some("0".to_owned()),
                sdp_m_line_index: Some(0),
                username_fragment: None,
            }));
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        if state == RTCIceConnectionState::Connected {
            self.prompt.ice_connected();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => self.emit(PeerEvent::Connected),
            RTCPeerConnectionState::Disconnected => self.emit(PeerEvent::Disconnected),
            RTCPeerConnectionState::Failed => self.emit(PeerEvent::Failed),
            RTCPeerConnectionState::Closed => self.emit(PeerEvent::Closed),
            _ => {}
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let label = channel.label().await.unwrap_or_default();
            let _ = events.try_send(PeerEvent::Channel(Channel { label, channel }));
        });
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let (events, codecs) = (self.events.clone(), Arc::clone(&self.codecs));
        let (feedback, has_video) = (self.feedback.clone(), Arc::clone(&self.has_video));
        tokio::spawn(async move {
            let is_video = track.kind().await == RtpCodecKind::Video;
            if !is_video || has_video.swap(true, Ordering::Relaxed) {
                return discard(track).await;
            }
            let Some(&ssrc) = track.ssrcs().await.first() else { return };
            feedback.follow(ssrc);
            let _ = events.try_send(PeerEvent::Track(RemoteTrack { track, ssrc, codecs, feedback }));
        });
    }
}

/// Reads a track that nobody wants, such as sound: the library complains of every packet that is not read.
async fn discard(track: Arc<dyn TrackRemote>) {
    while let Some(event) = track.poll().await {
        if matches!(event, TrackRemoteEvent::OnEnded) {
            return;
        }
    }
}

/// The browser's video.
pub struct RemoteTrack {
    track: Arc<dyn TrackRemote>,
    ssrc: u32,
    codecs: Arc<Mutex<HashMap<u8, Codec>>>,
    pub feedback: Feedback,
}

impl RemoteTrack {
    /// The next packet as it came, with the codec of its payload type; `None` at the end.
    pub async fn recv(&self) -> Option<(Option<Codec>, Packet)> {
        loop {
            match self.track.poll().await? {
                TrackRemoteEvent::OnRtpPacket(packet) => {
                    let codecs = self.codecs.lock().expect("no code panics with the codec table");
                    let codec = codecs.get(&packet.header.payload_type).copied();
                    let packet = Packet {
                        sequence_number: packet.header.sequence_number,
                        timestamp: packet.header.timestamp,
                        marker: packet.header.marker,
                        payload: packet.payload,
                    };
                    return Some((codec, packet));
                }
                TrackRemoteEvent::OnEnded => return None,
                _ => {}
            }
        }
    }

    /// Reads and forgets what comes.
    pub async fn discard(self) {
        discard(self.track).await;
    }

    /// Asks the browser for a key frame (PLI, RFC 4585 §6.3.1).
    pub async fn request_key_frame(&self) {
        let pli = PictureLossIndication { sender_ssrc: 0, media_ssrc: self.ssrc };
        if let Err(error) = self.track.write_rtcp(vec![Box::new(pli)]).await {
            tracing::debug!(%error, "asking for a key frame");
        }
    }
}

/// The annotated video on its way to the browser.
#[derive(Clone)]
pub struct OutgoingTrack {
    pub codec: Codec,
    pub feedback: Feedback,
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    payload_type: Arc<AtomicU8>,
}

impl OutgoingTrack {
    fn new(ssrc: u32, codec: Codec, feedback: Feedback) -> Self {
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: RTCRtpCodec {
                mime_type: format!("video/{}", codec.name()),
                clock_rate: 90_000,
                ..Default::default()
            },
            ..Default::default()
        };
        let track = MediaStreamTrack::new(
            "annotated".into(),
            "annotated-video".into(),
            "annotated".into(),
            RtpCodecKind::Video,
            vec![coding],
        );
        Self {
            codec,
            feedback,
            track: Arc::new(TrackLocalStaticRTP::new(track)),
            ssrc,
            payload_type: Arc::new(AtomicU8::new(0)),
        }
    }

    /// Sends one frame, which the connection cuts into packets; `false` once the connection has gone.
    pub async fn send(&self, timestamp: u32, frame: Bytes) -> bool {
        let header = rtc::rtp::Header {
            version: 2,
            payload_type: self.payload_type.load(Ordering::Relaxed),
            timestamp,
            ssrc: self.ssrc,
            ..Default::default()
        };
        self.track.write_rtp(rtc::rtp::Packet { header, payload: frame }).await.is_ok()
    }
}

/// A data channel that the browser opened.
#[derive(Clone)]
pub struct Channel {
    pub label: String,
    channel: Arc<dyn DataChannel>,
}

/// What came on a data channel.
#[derive(Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    Open,
    Text(String),
    /// Bytes that are not text; vigie's channels carry none.
    Binary,
}

impl Channel {
    /// The next event; `None` when the channel has closed.
    pub async fn recv(&self) -> Option<ChannelEvent> {
        loop {
            match self.channel.poll().await? {
                DataChannelEvent::OnOpen => return Some(ChannelEvent::Open),
                DataChannelEvent::OnClose | DataChannelEvent::OnClosing => return None,
                DataChannelEvent::OnMessage(message) => {
                    let text = message.is_string.then(|| String::from_utf8(message.data.to_vec()).ok());
                    return Some(text.flatten().map_or(ChannelEvent::Binary, ChannelEvent::Text));
                }
                _ => {}
            }
        }
    }

    /// Sends `text` if there is room for it; `false` when it was not sent.
    pub async fn try_send(&self, text: &str) -> bool {
        self.channel.try_send_text(text).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_types_come_from_the_rtpmap_lines() {
        let sdp = "v=0\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
                   a=rtpmap:102 H264/90000\r\na=rtpmap:x VP9/90000\r\na=rtpmap:111 opus/48000/2\r\n";
        let expected = HashMap::from([(96, Codec::Vp8), (102, Codec::H264)]);
        assert_eq!(video_codecs(sdp), expected);
        assert!(video_codecs("garbage\n\0").is_empty());
    }
}
