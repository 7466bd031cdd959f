//! What the browser's RTCP says: key frames it wants, packets it lost, and its clock.
//!
//! Stands in the library's chain of interceptors and only looks; packets pass through unchanged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rtc::interceptor::{Interceptor, Packet as TappedPacket, StreamInfo, TaggedPacket};
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;

use crate::rtp::SenderClock;

/// What the browser's RTCP says, read by the session's threads.
#[derive(Clone, Default)]
pub struct Feedback {
    key_wanted: Arc<AtomicBool>,
    /// Loss of the annotated track as the browser last reported it, in 1/256.
    lost: Arc<AtomicU8>,
    sender_clock: Arc<Mutex<SenderClock>>,
}

impl Feedback {
    /// Whether a key frame was asked for since the last call.
    pub fn take_key_wanted(&self) -> bool {
        self.key_wanted.swap(false, Ordering::Relaxed)
    }

    /// Asks for a key frame on behalf of a viewer that has not the frames before.
    pub fn want_key(&self) {
        self.key_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether both are of one peer.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.key_wanted, &other.key_wanted)
    }

    /// Share of the annotated track's packets that were lost of late, 0 to 1.
    pub fn loss_ratio(&self) -> f32 {
        f32::from(self.lost.load(Ordering::Relaxed)) / 256.0
    }

    /// When the browser captured the frame with this RTP timestamp: its Unix time in milliseconds.
    pub fn captured_ms(&self, rtp_timestamp: u32) -> Option<f64> {
        self.sender_clock.lock().expect("no code panics with the sender's clock").unix_ms(rtp_timestamp)
    }

    fn note_reports(&self, reports: &[ReceptionReport]) {
        if let Some(report) = reports.first() {
            self.lost.store(report.fraction_lost, Ordering::Relaxed);
        }
    }
}

/// Reads incoming RTCP on its way through: the library consumes it and offers no other look.
pub(super) struct FeedbackTap {
    feedback: Feedback,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl FeedbackTap {
    pub(super) fn new(feedback: Feedback) -> Self {
        Self { feedback, incoming: VecDeque::new(), outgoing: VecDeque::new() }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for FeedbackTap {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = RtcError;
    type Time = Instant;

    fn handle_read(&mut self, tagged: TaggedPacket) -> Result<(), RtcError> {
        if let TappedPacket::Rtcp(packets) = &tagged.message.packet {
            for packet in packets {
                let packet = packet.as_any();
                if packet.is::<PictureLossIndication>() || packet.is::<FullIntraRequest>() {
                    self.feedback.key_wanted.store(true, Ordering::Relaxed);
                } else if let Some(report) = packet.downcast_ref::<SenderReport>() {
                    let clock = &self.feedback.sender_clock;
                    let mut clock = clock.lock().expect("no code panics with the sender's clock");
                    clock.report(report.ntp_time, report.rtp_time);
                    self.feedback.note_reports(&report.reports);
                } else if let Some(report) = packet.downcast_ref::<ReceiverReport>() {
                    self.feedback.note_reports(&report.reports);
                }
            }
        }
        self.incoming.push_back(tagged);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, tagged: TaggedPacket) -> Result<(), RtcError> {
        self.outgoing.push_back(tagged);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl Interceptor for FeedbackTap {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
