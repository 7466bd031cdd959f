//! FFmpeg: decoding and encoding. The only folder that names it.
