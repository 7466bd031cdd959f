//! What the browser's RTCP says: key frames it wants, packets it lost, and its clock.
//!
//! Stands in the library's chain of interceptors and only looks; packets pass through unchanged.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rtc::interceptor::{Packet as TappedPacket, TaggedPacket};
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;

use super::tap::Tap;
use crate::rtp::SenderClock;

/// What the browser's RTCP says, read by the session's threads.
#[derive(Clone, Default)]
pub struct Feedback {
    key_wanted: Arc<AtomicBool>,
    /// Loss of the annotated track as the browser last reported it, in 1/256.
    lost: Arc<AtomicU8>,
    /// Of the browser's video; 0 before it has come.
    ssrc: Arc<AtomicU32>,
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

    /// Has the clock read from the reports of this stream: sound has timestamps of its own.
    pub(super) fn follow(&self, ssrc: u32) {
        self.ssrc.store(ssrc, Ordering::Relaxed);
    }

    /// When the browser captured the frame with this RTP timestamp: its Unix time in milliseconds.
    pub fn captured_ms(&self, rtp_timestamp: u32) -> Option<f64> {
        self.sender_clock.lock().expect("no code panics with the sender's clock").unix_ms(rtp_timestamp)
    }

    fn note_sender(&self, report: &SenderReport) {
        if report.ssrc == self.ssrc.load(Ordering::Relaxed) {
            let mut clock = self.sender_clock.lock().expect("no code panics with the sender's clock");
            clock.report(report.ntp_time, report.rtp_time);
        }
    }

    fn note_reports(&self, reports: &[ReceptionReport]) {
        if let Some(report) = reports.first() {
            self.lost.store(report.fraction_lost, Ordering::Relaxed);
        }
    }
}

/// Reads incoming RTCP on its way through: the library consumes it and offers no other look.
pub(super) struct FeedbackTap(pub(super) Feedback);

impl Tap for FeedbackTap {
    fn see(&mut self, tagged: &TaggedPacket) {
        let TappedPacket::Rtcp(packets) = &tagged.message.packet else { return };
        for packet in packets {
            let packet = packet.as_any();
            if packet.is::<PictureLossIndication>() || packet.is::<FullIntraRequest>() {
                self.0.key_wanted.store(true, Ordering::Relaxed);
            } else if let Some(report) = packet.downcast_ref::<SenderReport>() {
                self.0.note_sender(report);
                self.0.note_reports(&report.reports);
            } else if let Some(report) = packet.downcast_ref::<ReceiverReport>() {
                self.0.note_reports(&report.reports);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_that_of_the_video_and_not_of_the_sound_beside_it() {
        let feedback = Feedback::default();
        let report =
            |ssrc, rtp_time| SenderReport { ssrc, ntp_time: 1 << 63, rtp_time, ..Default::default() };
        feedback.note_sender(&report(7, 90_000));
        assert_eq!(feedback.captured_ms(90_000), None, "which stream is the video is not known yet");
        feedback.follow(7);
        feedback.note_sender(&report(7, 90_000));
        let at = feedback.captured_ms(90_000).unwrap();
        feedback.note_sender(&report(8, 3_000_000_000));
        assert_eq!(feedback.captured_ms(90_000), Some(at));
        feedback.note_sender(&report(7, 180_000));
        assert_eq!(feedback.captured_ms(180_000), Some(at));
    }
}
