//! FFmpeg's own log, taken off stderr and passed to `tracing` at debug level, a few lines a second.
//!
//! Corrupt input makes libavcodec print for every macroblock; a hostile sender must not be able to
//! fill a disk with that. Errors still reach the caller as [`CodecError`](super::CodecError).

use std::sync::Once;

use ffmpeg_sys_next as ffi;

/// Installs the bridge the first time it is called.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: both calls only store process-wide settings; `forward` matches the callback's type
        // and is callable from any thread, which is what av_log_set_callback asks.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_WARNING);
            #[cfg(target_arch = "x86_64")]
            ffi::av_log_set_callback(Some(bridge::forward));
            // Elsewhere va_list has another type, and a log line is not worth a build failure.
            #[cfg(not(target_arch = "x86_64"))]
            ffi::av_log_set_level(ffi::AV_LOG_QUIET);
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod bridge {
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex};
    use std::time::Instant;

    use ffmpeg_sys_next as ffi;

    /// Lines a second; enough to see what is wrong with a stream.
    const LINES_PER_SECOND: u64 = 10;

    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    static SECOND: Mutex<u64> = Mutex::new(0);
    static LINES: AtomicU64 = AtomicU64::new(0);

    fn within_rate() -> bool {
        let now = STARTED.elapsed().as_secs();
        if let Ok(mut second) = SECOND.try_lock()
            && *second != now
        {
            *second = now;
            LINES.store(0, Ordering::Relaxed);
        }
        LINES.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND
    }

    /// The callback: formats one line and hands it to `tracing`.
    pub(super) unsafe extern "C" fn forward(
        context: *mut c_void,
        level: c_int,
        format: *const c_char,
        arguments: *mut ffi::__va_list_tag,
    ) {
        if level > ffi::AV_LOG_WARNING || !tracing::enabled!(tracing::Level::DEBUG) || !within_rate() {
            return;
        }
        let mut line: [c_char; 256] = [0; 256];
        let mut print_prefix: c_int = 1;
        // SAFETY: context, format and arguments come from av_log for this call; the line buffer is
        // writable for the length given and is always ended with a zero.
        let text = unsafe {
            ffi::av_log_format_line(
                context,
                level,
                format,
                arguments,
                line.as_mut_ptr(),
                line.len() as c_int,
                &mut print_prefix,
            );
            CStr::from_ptr(line.as_ptr())
        };
        tracing::debug!(target: "vigie::codec::ffmpeg", "{}", text.to_string_lossy().trim_end());
    }
}
