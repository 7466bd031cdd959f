//! Bodies that come or go compressed.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::error::OipError;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    /// In zlib's format (RFC 9110 §8.4.1.2).
    Deflate,
}

impl Coding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn named(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// Of a `Content-Encoding`; `None` where the body is as it is.
    ///
    /// # Errors
    /// [`OipError::UnknownCoding`] for any other, and for several.
    pub fn of_content(text: &str) -> Result<Option<Self>, OipError> {
        match Self::named(text) {
            None if !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "identity") => {
                Err(OipError::UnknownCoding { coding: text.chars().take(40).collect() })
            }
            coding => Ok(coding),
        }
    }

    /// What a client that accepts `text` asks for: the one coding that it names. One that names several is a library
    /// with its defaults, and better served by tensors as they are: they hardly shrink, and packing them takes longer
    /// than the model.
    pub fn asked_for(text: &str) -> Option<Self> {
        let mut named = text.split(',').filter(|coding| !coding.trim().is_empty());
        match (named.next(), named.next()) {
            (Some(only), None) if !only.contains(';') => Self::named(only),
            _ => None,
        }
    }

    /// Unpacks a body of at most `max_bytes`.
    ///
    /// # Errors
    /// [`OipError::TooLarge`] beyond, [`OipError::Unreadable`] for what is not so packed.
    pub fn unpack(self, body: &[u8], max_bytes: usize) -> Result<Bytes, OipError> {
        let mut unpacked = Vec::new();
        let limit = max_bytes as u64 + 1;
        let read = match self {
            Self::Gzip => GzDecoder::new(body).take(limit).read_to_end(&mut unpacked),
            Self::Deflate => ZlibDecoder::new(body).take(limit).read_to_end(&mut unpacked),
        };
        if let Err(error) = read {
            let reason = format!("its body is no {}: {error}", self.name());
            return Err(OipError::Unreadable { reason });
        }
        match unpacked.len() > max_bytes {
            true => Err(OipError::TooLarge { max_bytes }),
            false => Ok(unpacked.into()),
        }
    }

    /// Packs the pieces of a body.
    pub fn pack(self, pieces: &[Bytes]) -> Vec<u8> {
        fn all(mut to: impl Write, pieces: &[Bytes]) -> std::io::Result<()> {
            pieces.iter().try_for_each(|piece| to.write_all(piece))
        }
        let packed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                all(&mut encoder, pieces).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                all(&mut encoder, pieces).and_then(|()| encoder.finish())
            }
        };
        packed.expect("memory takes every byte")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_within_its_limit() {
        let pieces = [Bytes::from(vec![7; 1000]), Bytes::from_static(b"end")];
        for coding in [Coding::Gzip, Coding::Deflate] {
            let packed = coding.pack(&pieces);
            assert!(packed.len() < 100, "{}", packed.len());
            assert_eq!(coding.unpack(&packed, 1003).unwrap(), pieces.concat());
            assert_eq!(coding.unpack(&packed, 1002), Err(OipError::TooLarge { max_bytes: 1002 }));
            for broken in [&packed[..packed.len() / 2], b"", b"nonsense"] {
                assert_eq!(coding.unpack(broken, 1003).unwrap_err().code(), "invalid_request");
            }
        }
    }

    #[test]
    fn codings_are_read_from_headers() {
        for (text, coding) in [("", Ok(None)), ("identity", Ok(None)), ("GZIP", Ok(Some(Coding::Gzip)))] {
            assert_eq!(Coding::of_content(text), coding, "{text}");
        }
        for text in ["br", "gzip, gzip", "x"] {
            assert_eq!(Coding::of_content(text).unwrap_err().status(), 415, "{text}");
        }
        for (text, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("deflate", Some(Coding::Deflate)),
            ("gzip, deflate", None),
            ("gzip;q=0", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Coding::asked_for(text), coding, "{text}");
        }
    }
}
