//! One browser session: its peer connection, its threads, its settings.
