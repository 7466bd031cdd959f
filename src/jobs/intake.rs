//! Takes a video in: counts, hashes and stores its bytes, and refuses what is no video by the first of them.

use bytes::{Bytes, BytesMut};

use super::record::Upload;
use crate::blobs::{BlobError, Blobs, Writer};
use crate::container::{Container, START_BYTES};

/// Where uploads are kept, by their SHA-256.
pub(super) const UPLOADS: &str = "uploads";

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the file is empty")]
    Empty,
    #[error("the file is no MP4, MOV, WebM, Matroska, AVI or MPEG-TS video")]
    UnsupportedType,
    #[error("the file has more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("the store is full")]
    Full,
    #[error("the store cannot be used")]
    Store(#[source] BlobError),
}

impl From<BlobError> for IntakeError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::Full,
            BlobError::TooLarge { max_bytes } => Self::TooLarge { max_bytes },
            error => Self::Store(error),
        }
    }
}

/// Looks at the first bytes of an upload, however they come.
#[derive(Default)]
pub struct Door {
    start: BytesMut,
    is_open: bool,
}

impl Door {
    /// Is shown the next bytes.
    ///
    /// # Errors
    /// [`IntakeError::UnsupportedType`] as soon as that is sure.
    pub fn show(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.is_open {
            return Ok(());
        }
        let wanted = START_BYTES - self.start.len();
        self.start.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        if self.start.len() == START_BYTES { self.decide() } else { Ok(()) }
    }

    /// Is told that there is no more.
    ///
    /// # Errors
    /// [`IntakeError::Empty`] or [`IntakeError::UnsupportedType`].
    pub fn close(&mut self) -> Result<(), IntakeError> {
        match self.start.is_empty() {
            true => Err(IntakeError::Empty),
            false => self.decide(),
        }
    }

    fn decide(&mut self) -> Result<(), IntakeError> {
        self.is_open = Container::of(&self.start).is_some();
        if self.is_open { Ok(()) } else { Err(IntakeError::UnsupportedType) }
    }
}

/// An upload on its way into the store. Dropped before [`finish`](Self::finish), it leaves nothing there.
pub struct Intake {
    door: Door,
    writer: Writer,
}

impl Intake {
    /// Begins an upload of at most `max_bytes`.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn open(blobs: &Blobs, max_bytes: u64) -> Result<Self, IntakeError> {
        Ok(Self { door: Door::default(), writer: blobs.writer_by_content(UPLOADS, max_bytes).await? })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`IntakeError`]; the upload is then over.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), IntakeError> {
        self.door.show(&bytes)?;
        Ok(self.writer.write(bytes).await?)
    }

    /// Ends the upload.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub async fn finish(mut self) -> Result<Upload, IntakeError> {
        self.door.close()?;
        let stored = self.writer.finish().await?;
        Ok(Upload { bytes: stored.bytes, sha256: stored.sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_opens_to_videos_whatever_pieces_they_come_in() {
        let mut film = b"\0\0\0\x20ftypisom".to_vec();
        film.resize(3000, 7);
        for size in [1, 5, 1024, 3000] {
            let mut door = Door::default();
            for piece in film.chunks(size) {
                door.show(piece).unwrap();
            }
            door.close().unwrap();
        }
        let mut short = Door::default();
        short.show(&film[..12]).unwrap();
        short.close().unwrap();
    }

    #[test]
    fn the_door_closes_before_much_has_come() {
        let mut door = Door::default();
        door.show(&[b'#'; START_BYTES - 1]).unwrap();
        assert!(matches!(door.show(b"#"), Err(IntakeError::UnsupportedType)));
        assert!(matches!(Door::default().close(), Err(IntakeError::Empty)));
        let mut playlist = Door::default();
        playlist.show(b"#EXTM3U\n").unwrap();
        assert!(matches!(playlist.close(), Err(IntakeError::UnsupportedType)));
    }
}
