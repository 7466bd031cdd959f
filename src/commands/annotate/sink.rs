//! A file that appears under its name only when it is whole.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Where something is written; what is not [kept](Sink::keep) leaves nothing behind.
pub enum Sink {
    File {
        partial: NamedTempFile,
        path: PathBuf,
    },
    /// A pipe or a terminal, to which writing is at once for good.
    Stream(Box<dyn Write + Send>),
}

impl Sink {
    /// `-` is the standard output.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stream(Box::new(io::stdout())));
        }
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(Self::Stream(Box::new(File::options().write(true).open(path)?)));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = tempfile::Builder::new()
            .prefix(".vigie-")
            .suffix(".part")
            // As any other file: less what the process's mask takes off.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        Ok(Self::File { partial, path: path.to_owned() })
    }

    pub fn keep(self) -> io::Result<()> {
        match self {
            Self::File { partial, path } => partial.persist(path).map(drop).map_err(|error| error.error),
            Self::Stream(mut stream) => stream.flush(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { partial, .. } => partial.write(bytes),
            Self::Stream(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { partial, .. } => partial.flush(),
            Self::Stream(stream) => stream.flush(),
        }
    }
}
