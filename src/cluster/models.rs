//! Uploaded models between front and worker: the front has put a file into the store that both share, and a worker takes
//! it in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use hyper_util::client::legacy;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::remote::{JSON, Remote, retry_after};

/// The path of the control API under which models are taken in, each by its name.
pub const MODELS_PATH: &str = "/control/v1/models";

/// From the order to the answer: those that wait before it, and the trial, each as long as it may be.
const ANSWER_LIMIT: Duration = Duration::from_secs(5000);
/// Bytes of an answer: a manifest with many labels, and what was found.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// A model that lies in the store, to be taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOrder {
    /// The ONNX file's key in the store.
    pub file: String,
    /// The key of the picture to try it on; without it, one that the worker brings.
    pub picture: Option<String>,
    /// What is said of it, as a form's fields write it.
    pub fields: BTreeMap<String, String>,
}

/// Why a model was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFault {
    /// Stable; those of the check and of the trial, and of what can happen around them.
    pub code: String,
    pub message: String,
}

/// Why a worker did not take a model in.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("the worker refused the model: {}", fault.message)]
    Refused { status: u16, fault: ModelFault, retry_after_s: Option<u32> },
    #[error("the worker at {address} cannot be reached")]
    Unreachable { address: SocketAddr, source: legacy::Error },
    #[error("the exchange with the worker at {address} broke off")]
    Broken { address: SocketAddr, source: legacy::Error },
    #[error("the worker at {address} did not answer in time")]
    Silent { address: SocketAddr },
    #[error("the worker at {address} answered {status}, unreadably")]
    Unreadable { address: SocketAddr, status: u16 },
}

impl Remote {
    /// Has a model taken in as the next version of `name`, and returns what the worker says of it: a receipt, as JSON.
    ///
    /// # Errors
    /// [`ModelError::Refused`] with the worker's reason, or what kept it from answering.
    pub async fn take_model(&self, name: &str, order: &ModelOrder) -> Result<Bytes, ModelError> {
        let address = self.address;
        let path = format!("{MODELS_PATH}/{name}");
        let json = serde_json::to_vec(order).expect("an order has string keys");
        let answer = timeout(ANSWER_LIMIT, self.send(Method::POST, &path, JSON, json)).await;
        let answer = answer.map_err(|_| ModelError::Silent { address })?.map_err(|source| {
            match source.is_connect() {
                true => ModelError::Unreachable { address, source },
                false => ModelError::Broken { address, source },
            }
        })?;
        let (head, body) = answer.into_parts();
        let status = head.status;
        let unreadable = || ModelError::Unreadable { address, status: status.as_u16() };
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|_| unreadable())?.to_bytes();
        if status == StatusCode::CREATED {
            return Ok(body);
        }
        let fault: ModelFault = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let is_passing = status == StatusCode::SERVICE_UNAVAILABLE;
        let retry_after_s = is_passing.then(|| retry_after(&head.headers));
        Err(ModelError::Refused { status: status.as_u16(), fault, retry_after_s })
    }
}
