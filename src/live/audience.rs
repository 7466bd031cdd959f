//! Who watches a session: its own page, and viewers. What is drawn is encoded once and given to all, and
//! not at all while nobody watches.
//!
//! Contract
//! 1. [`Audience::go_live`] when the session's video has come; before, viewers are turned away.
//! 2. Who joins gets what is encoded from then on, beginning with a key frame that its joining asks for.
//! 3. Who is slower than the encoder loses frames, asks for a key frame and goes on from there; nobody
//!    waits for anybody.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::peer::{Channel, Feedback, OutgoingTrack};
use crate::frame::Codec;
use crate::telemetry::metrics::{Metrics, Stage};

/// Encoded pictures that may wait to be sent; more means that the watcher's network is slower.
const FRAME_CAPACITY: usize = 4;
/// Reports that may wait for a data channel; they are for now, so few.
const REPORT_CAPACITY: usize = 4;
/// A key frame is made at most this often: one watcher's losses must not cost the others their picture.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(300);

/// One encoded picture of the annotated track.
#[derive(Clone)]
pub struct AnnotatedFrame {
    pub data: Bytes,
    pub is_key: bool,
    pub rtp_timestamp: u32,
    /// When the frame that it shows had come in.
    pub received: Instant,
}

/// Why somebody cannot watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("the session has no video yet")]
    NotLive,
    #[error("the session's annotated video is {}, which the offer does not have", .0.name())]
    OtherCodec(Codec),
    #[error("the offer has no codec that is encoded here")]
    NoCodec,
    #[error("the session has its {limit} viewers")]
    Full { limit: usize },
}

/// One session's watchers.
pub struct Audience {
    frames: broadcast::Sender<AnnotatedFrame>,
    reports: broadcast::Sender<Arc<str>>,
    seats: Arc<Semaphore>,
    limit: usize,
    /// Dropped with the session, by which viewers know.
    end: watch::Sender<()>,
    /// Held for look-ups only, never across a wait.
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    is_live: bool,
    /// Chosen by the first who watches; kept, so that there is one encoder.
    codec: Option<Codec>,
    watching: Vec<Feedback>,
    last_key: Option<Instant>,
}

impl Audience {
    /// Room for `limit` viewers besides the page.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            frames: broadcast::Sender::new(FRAME_CAPACITY),
            reports: broadcast::Sender::new(REPORT_CAPACITY),
            seats: Arc::new(Semaphore::new(limit)),
            limit,
            end: watch::Sender::new(()),
            room: Mutex::default(),
        })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().expect("no code panics while it holds the audience")
    }

    /// The session's video has come; `codec` is what its own page receives, if it does.
    pub fn go_live(&self, codec: Option<Codec>) {
        let mut room = self.room();
        room.is_live = true;
        room.codec = room.codec.or(codec);
    }

    /// The codec of the annotated video; none until somebody has watched.
    pub fn codec(&self) -> Option<Codec> {
        self.room().codec
    }

    /// A viewer's seat, and the codec for one whose offer has `offered`: the session's, or the first of
    /// `preferred`.
    pub fn admit(
        &self,
        offered: &[Codec],
        preferred: &[Codec],
    ) -> Result<(OwnedSemaphorePermit, Codec), WatchError> {
        let mut room = self.room();
        if !room.is_live {
            return Err(WatchError::NotLive);
        }
        let codec = match room.codec {
            Some(codec) if offered.contains(&codec) => codec,
            Some(codec) => return Err(WatchError::OtherCodec(codec)),
            None => preferred.iter().copied().find(|c| offered.contains(c)).ok_or(WatchError::NoCodec)?,
        };
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| WatchError::Full { limit: self.limit })?;
        room.codec = Some(codec);
        Ok((seat, codec))
    }

    /// Begins to watch; `feedback` is what the watcher's network says.
    pub fn join(self: &Arc<Self>, feedback: Feedback) -> Watcher {
        feedback.want_key();
        self.room().watching.push(feedback.clone());
        let frames = self.frames.subscribe();
        Watcher { audience: Arc::downgrade(self), feedback, frames, needs_key: true }
    }

    pub fn is_watched(&self) -> bool {
        !self.room().watching.is_empty()
    }

    /// Whether the next picture must be a key frame.
    pub fn takes_key(&self, now: Instant) -> bool {
        let mut room = self.room();
        if room.last_key.is_some_and(|at| now.duration_since(at) < KEY_FRAME_INTERVAL) {
            return false;
        }
        let wanted = room.watching.iter().fold(false, |wanted, one| one.take_key_wanted() | wanted);
        if wanted {
            room.last_key = Some(now);
        }
        wanted
    }

    /// The loss of the watcher who loses least: the bit rate is for those who can see, and not for the one
    /// whose network is broken.
    pub fn loss_ratio(&self) -> f32 {
        let losses = self.room().watching.iter().map(Feedback::loss_ratio).min_by(f32::total_cmp);
        losses.unwrap_or(0.0)
    }

    pub fn show(&self, frame: AnnotatedFrame) {
        // Without a receiver the last watcher has just left.
        let _ = self.frames.send(frame);
    }

    pub fn has_readers(&self) -> bool {
        self.reports.receiver_count() > 0
    }

    pub fn tell(&self, report: String) {
        let _ = self.reports.send(report.into());
    }

    /// Fails at the session's end.
    pub fn ending(&self) -> watch::Receiver<()> {
        self.end.subscribe()
    }

    /// The reports from now on.
    pub fn reports(&self) -> broadcast::Receiver<Arc<str>> {
        self.reports.subscribe()
    }
}

/// One who watches, until dropped.
pub struct Watcher {
    /// A watcher does not keep the session's audience alive: it learns the end by its ending.
    audience: Weak<Audience>,
    feedback: Feedback,
    frames: broadcast::Receiver<AnnotatedFrame>,
    needs_key: bool,
}

impl Watcher {
    /// The next picture that can be decoded after the one before; `None` when the session has ended.
    async fn next(&mut self, metrics: &Metrics) -> Option<AnnotatedFrame> {
        loop {
            match self.frames.recv().await {
                Ok(frame) if frame.is_key || !self.needs_key => {
                    self.needs_key = false;
                    return Some(frame);
                }
                Ok(_) => self.feedback.want_key(),
                Err(RecvError::Lagged(count)) => {
                    (0..count).for_each(|_| metrics.frame_dropped(Stage::Send));
                    self.needs_key = true;
                    self.feedback.want_key();
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(audience) = self.audience.upgrade() {
            audience.room().watching.retain(|one| !one.is_same(&self.feedback));
        }
    }
}

/// Sends what `watcher` sees on `track` until the session or the peer has gone.
pub async fn send_frames(track: &OutgoingTrack, mut watcher: Watcher, metrics: &Metrics) {
    while let Some(frame) = watcher.next(metrics).await {
        let began = Instant::now();
        if !track.send(frame.rtp_timestamp, frame.data).await {
            return;
        }
        metrics.observe(Stage::Send, began.elapsed());
        metrics.observe(Stage::Annotated, frame.received.elapsed());
    }
}

/// Sends reports on `channel` until it or the session has gone.
pub async fn send_reports(
    channel: Channel,
    mut reports: broadcast::Receiver<Arc<str>>,
    metrics: Arc<Metrics>,
) {
    // The first event is the channel's opening; after it nothing is expected here.
    loop {
        tokio::select! {
            event = channel.recv() => if event.is_none() { return },
            report = reports.recv() => match report {
                Ok(report) => drop(channel.try_send(&report).await),
                // Results are for now: when the channel is behind, those are lost and the next will do.
                Err(RecvError::Lagged(count)) => (0..count).for_each(|_| metrics.frame_dropped(Stage::Send)),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(is_key: bool, rtp_timestamp: u32) -> AnnotatedFrame {
        AnnotatedFrame { data: Bytes::new(), is_key, rtp_timestamp, received: Instant::now() }
    }

    #[test]
    fn viewers_share_one_codec_and_a_number_of_seats() {
        let audience = Audience::new(2);
        let (both, preferred) = ([Codec::H264, Codec::Vp8], [Codec::H264, Codec::Vp8]);
        assert_eq!(audience.admit(&both, &preferred).unwrap_err(), WatchError::NotLive);
        audience.go_live(None);
        assert_eq!(audience.admit(&[Codec::Av1], &preferred).unwrap_err(), WatchError::NoCodec);
        let (seat, codec) = audience.admit(&[Codec::Vp8], &preferred).unwrap();
        assert_eq!(codec, Codec::Vp8);
        let (_other, codec) = audience.admit(&both, &preferred).unwrap();
        assert_eq!(codec, Codec::Vp8, "one encoder for all");
        assert_eq!(
            audience.admit(&[Codec::H264], &preferred).unwrap_err(),
            WatchError::OtherCodec(Codec::Vp8)
        );
        assert_eq!(audience.admit(&both, &preferred).unwrap_err(), WatchError::Full { limit: 2 });
        drop(seat);
        assert!(audience.admit(&both, &preferred).is_ok());
    }

    #[tokio::test]
    async fn who_joins_or_falls_behind_goes_on_from_a_key_frame() {
        let (audience, metrics) = (Audience::new(1), Metrics::new());
        assert!(!audience.is_watched());
        let mut watcher = audience.join(Feedback::default());
        let start = Instant::now();
        assert!(audience.is_watched() && audience.takes_key(start));
        assert!(!audience.takes_key(start + KEY_FRAME_INTERVAL), "asked for once");

        [frame(false, 1), frame(true, 2), frame(false, 3)].into_iter().for_each(|f| audience.show(f));
        assert_eq!(watcher.next(&metrics).await.map(|f| f.rtp_timestamp), Some(2));
        assert_eq!(watcher.next(&metrics).await.map(|f| f.rtp_timestamp), Some(3));

        (4..9).for_each(|at| audience.show(frame(false, at)));
        audience.show(frame(true, 9));
        assert_eq!(watcher.next(&metrics).await.map(|f| f.rtp_timestamp), Some(9));
        assert_eq!(metrics.frames_dropped_total.with_label_values(&["send"]).get(), 2);
        assert!(audience.takes_key(start + 2 * KEY_FRAME_INTERVAL));

        let feedback = watcher.feedback.clone();
        drop(watcher);
        assert!(!audience.is_watched());
        let mut watcher = audience.join(feedback);
        drop(audience);
        assert!(watcher.next(&metrics).await.is_none());
    }

    #[test]
    fn key_frames_are_kept_apart_however_often_they_are_asked_for() {
        let audience = Audience::new(1);
        let watcher = audience.join(Feedback::default());
        let start = Instant::now();
        let made = (0..100).filter(|at| {
            watcher.feedback.want_key();
            audience.takes_key(start + Duration::from_millis(30 * at))
        });
        assert_eq!(made.count(), 10);
    }
}
