//! What models run on, as it is written and as it could be had.

use std::str::FromStr;

/// Where a model is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// CUDA device 0 when the library and the machine have it, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A CUDA device by its index.
    Cuda(i32),
    /// TensorRT on a CUDA device by its index; what TensorRT cannot run goes to CUDA.
    Tensorrt(i32),
}

/// A device was written in a way that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {0:?} is none of auto, cpu, cuda:N, tensorrt:N")]
pub struct UnknownDevice(String);

impl Device {
    /// One device, or several with commas between them.
    ///
    /// # Errors
    /// [`UnknownDevice`] for the first that is not understood.
    pub fn several(text: &str) -> Result<Vec<Self>, UnknownDevice> {
        text.split(',').map(|device| device.trim().parse()).collect()
    }
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        // u16 bounds the index and refuses a sign.
        let index = index.parse::<u16>().map(i32::from);
        match (kind, index) {
            ("auto", _) if text == "auto" => Ok(Self::Auto),
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(index)) => Ok(Self::Cuda(index)),
            ("tensorrt", Ok(index)) => Ok(Self::Tensorrt(index)),
            _ => Err(UnknownDevice(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Tensorrt(index) => write!(f, "tensorrt:{index}"),
        }
    }
}

/// Where a model does run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUsed {
    /// Never [`Device::Auto`].
    pub device: Device,
    /// Why it is not the device that was asked for.
    pub fallback: Option<String>,
}

impl From<Device> for DeviceUsed {
    fn from(device: Device) -> Self {
        Self { device, fallback: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_devices() {
        let cases = [
            ("auto", Some(Device::Auto)),
            ("cpu", Some(Device::Cpu)),
            ("cuda", Some(Device::Cuda(0))),
            ("cuda:3", Some(Device::Cuda(3))),
            ("tensorrt:1", Some(Device::Tensorrt(1))),
            ("cpu:0", None),
            ("auto:1", None),
            ("cuda:-1", None),
            ("cuda:", None),
            ("CUDA:0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Device>().ok(), expected, "{text}");
        }
        assert_eq!(Device::several("cuda:0, cuda:2"), Ok(vec![Device::Cuda(0), Device::Cuda(2)]));
        assert_eq!(Device::several("cpu"), Ok(vec![Device::Cpu]));
        assert_eq!(Device::several("cuda:0,"), Err(UnknownDevice(String::new())));
        for device in [Device::Auto, Device::Cpu, Device::Cuda(2), Device::Tensorrt(0)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
    }
}
