//! The queue on a NATS server: a JetStream work queue that all workers pull from.
//!
//! One message a job, kept in the server's file store until it is acknowledged. The stream and its consumer are made by
//! whoever comes first; a stream that is there already (with replicas, say) is used as it is.

mod keeper;
mod pull;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State as Connection;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::{AckKind, Acker};
use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Delivery, Depth, JobId, Options, QueueError};
use keeper::{Keeper, State};

const STREAM: &str = "VIGIE_JOBS";
const SUBJECT: &str = "vigie.jobs";
const CONSUMER: &str = "workers";

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often something is said until the server confirms it.
const ATTEMPTS: u32 = 3;
/// A job whose taker fell over is not handed on at once, lest a job that panics spin.
const AFTER_A_PANIC: Duration = Duration::from_secs(1);

/// What stands in the stream.
#[derive(Serialize, Deserialize)]
struct Entry {
    job: JobId,
    /// Before this message was written.
    tries: u32,
}

#[derive(Clone)]
pub(super) struct NatsQueue(Arc<Shared>);

struct Shared {
    options: Options,
    jetstream: Context,
    keeper: Keeper,
}

impl NatsQueue {
    pub async fn connect(url: &str, options: Options) -> Result<Self, QueueError> {
        let (keeper, jetstream) = Keeper::start(url, &options).await?;
        Ok(Self(Arc::new(Shared { options, jetstream, keeper })))
    }

    pub fn ready(&self) -> Result<(), QueueError> {
        self.consumer()?;
        if self.0.keeper.is_full() { Err(self.full()) } else { Ok(()) }
    }

    fn full(&self) -> QueueError {
        QueueError::Full { capacity: self.0.options.capacity }
    }

    pub async fn push(&self, job: JobId, tries: u32) -> Result<(), QueueError> {
        // Whether there is room the server knows best.
        self.consumer()?;
        let entry = Entry { job, tries };
        let payload = Bytes::from(serde_json::to_vec(&entry).expect("an entry is plain JSON"));
        // The same for all attempts of this push, so that the server keeps one of them, and of no other push of this job.
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, format!("{job}.{:016x}", rand::random::<u64>()));
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let publish = async {
                self.0.jetstream.publish_with_headers(SUBJECT, headers.clone(), payload.clone()).await?.await
            };
            match timeout(ANSWER, publish).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if says_full(&error) => return Err(self.full()),
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => reason = "no answer".to_owned(),
            }
        }
        Err(QueueError::Unreachable { reason })
    }

    pub async fn take(&self) -> Delivery {
        loop {
            let consumer = self.0.keeper.consumer().await;
            let pulled = tokio::select! {
                pulled = pull::pull(self, &consumer) => pulled,
                // A lost connection takes the server's memory of the question with it.
                () = self.0.keeper.lost() => continue,
            };
            match pulled {
                Ok(Some(message)) => {
                    if let Some(delivery) = self.delivery(message).await {
                        return delivery;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no job from the queue");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    pub async fn depth(&self) -> Result<Depth, QueueError> {
        let consumer = self.consumer()?;
        let unreachable = |reason: String| QueueError::Unreachable { reason };
        let info =
            timeout(ANSWER, consumer.get_info()).await.map_err(|_| unreachable("no answer".to_owned()))?;
        let info = info.map_err(|error| unreachable(error.to_string()))?;
        Ok(Depth { waiting: info.num_pending, taken: info.num_ack_pending as u64 })
    }

    fn consumer(&self) -> Result<PullConsumer, QueueError> {
        match self.0.keeper.state() {
            State::Ready(consumer) => Ok(*consumer),
            State::Waiting(reason) => Err(QueueError::Unreachable { reason }),
        }
    }

    async fn delivery(&self, message: Message) -> Option<Delivery> {
        let delivered = message.info().map_or(1, |info| u32::try_from(info.delivered).unwrap_or(u32::MAX));
        let (message, acker) = message.split();
        let Ok(entry) = serde_json::from_slice::<Entry>(&message.payload) else {
            // Somebody else wrote into our stream; kept, it would come again for ever.
            tracing::warn!(bytes = message.payload.len(), "what was queued is no job; dropped");
            let _ = timeout(ANSWER, acker.ack_with(AckKind::Term)).await;
            return None;
        };
        let tries = entry.tries.saturating_add(delivered);
        let receipt = Receipt { queue: self.clone(), acker: Some(Arc::new(acker)) };
        Some(Delivery {
            job: entry.job,
            tries,
            spent: tries > self.0.options.max_tries,
            receipt: super::Receipt::Nats(receipt),
        })
    }
}

fn says_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    error.to_string().contains("maximum messages exceeded")
}

/// What a delivery is acknowledged with; dropped, the message goes to another taker.
pub(super) struct Receipt {
    queue: NatsQueue,
    /// Until the message's fate is settled.
    acker: Option<Arc<Acker>>,
}

impl Receipt {
    pub async fn working(&self) {
        // Said while the connection is down, it would be said too late, and again and again.
        if let (Some(acker), Connection::Connected) = (&self.acker, self.queue.0.keeper.connection()) {
            let _ = timeout(ANSWER, acker.ack_with(AckKind::Progress)).await;
        }
    }

    pub async fn done(mut self) -> Result<(), QueueError> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let Some(acker) = &self.acker else { break };
            match timeout(ANSWER, acker.double_ack()).await {
                Ok(Ok(())) => {
                    self.acker = None;
                    return Ok(());
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => reason = "no answer".to_owned(),
            }
        }
        // The server gives it to another when the ack wait is over.
        self.acker = None;
        Err(QueueError::Unreachable { reason })
    }

    pub async fn retry(mut self, delay: Duration) {
        if let Some(acker) = self.acker.take() {
            let _ = timeout(ANSWER, acker.ack_with(AckKind::Nak(Some(delay)))).await;
        }
    }

    /// Queues the job anew, since a message's own count of deliveries only grows, and then lets go of this one.
    pub async fn give_back(self, job: JobId, tries: u32) {
        match self.queue.push(job, tries).await {
            Ok(()) => {
                let _ = self.done().await;
            }
            Err(_) => self.retry(Duration::ZERO).await,
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(ANSWER, acker.ack_with(AckKind::Nak(Some(AFTER_A_PANIC)))).await;
            });
        }
    }
}
