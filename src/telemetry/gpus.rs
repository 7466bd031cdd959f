//! What NVIDIA's management library says of the GPUs: asked when somebody asks, so that nothing runs for it in between.
//!
//! It is the only file that names the library, which comes with the driver and is loaded where there is one.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

/// The library of a driver; the name without a number comes with development packages only.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The GPUs that the driver shows this process.
pub struct Gpus {
    nvml: Nvml,
    utilisation: GaugeVec,
    memory: GaugeVec,
}

impl Gpus {
    /// Finds them; `None` without a driver.
    pub fn find() -> Option<Self> {
        let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init();
        let nvml = nvml.inspect_err(|error| tracing::debug!(%error, "no figures of GPUs")).ok()?;
        let gauge = |name: &str, help: &str, of: &str| {
            GaugeVec::new(Opts::new(name, help), &["gpu", of])
                .expect("a metric's name and help are constants")
        };
        Some(Self {
            nvml,
            utilisation: gauge(
                "vigie_gpu_utilisation_ratio",
                "Share of the last moment in which a GPU's unit was at work, by unit: compute, memory, decoder, encoder.",
                "unit",
            ),
            memory: gauge("vigie_gpu_memory_bytes", "Memory of a GPU, by kind: used, total.", "kind"),
        })
    }

    fn read(&self, index: u32) -> Result<(), NvmlError> {
        let gpu = self.nvml.device_by_index(index)?;
        let name = index.to_string();
        let memory = gpu.memory_info()?;
        for (kind, bytes) in [("used", memory.used), ("total", memory.total)] {
            self.memory.with_label_values(&[name.as_str(), kind]).set(bytes as f64);
        }
        let busy = gpu.utilization_rates()?;
        let units = [
            ("compute", Ok(busy.gpu)),
            ("memory", Ok(busy.memory)),
            ("decoder", gpu.decoder_utilization().map(|of| of.utilization)),
            ("encoder", gpu.encoder_utilization().map(|of| of.utilization)),
        ];
        // Some have no encoder.
        for (unit, percent) in units.into_iter().filter_map(|(unit, percent)| Some((unit, percent.ok()?))) {
            self.utilisation.with_label_values(&[name.as_str(), unit]).set(f64::from(percent) / 100.0);
        }
        Ok(())
    }
}

impl Collector for Gpus {
    fn desc(&self) -> Vec<&Desc> {
        [self.utilisation.desc(), self.memory.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for index in 0..self.nvml.device_count().unwrap_or_default() {
            if let Err(error) = self.read(index) {
                tracing::debug!(%error, index, "reading the figures of a GPU");
            }
        }
        [self.utilisation.collect(), self.memory.collect()].concat()
    }
}
