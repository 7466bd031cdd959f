//! One question for the next message, which can be taken back.
//!
//! Whoever stops waiting may be given a message at that moment. The library would forget it, and it would lie idle until
//! the ack wait is over, as if its taker had died; so what still comes is given back.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{StatusCode, Subject, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{ANSWER, NatsQueue};

/// The server is asked anew so often, and forgets whoever has gone without a word after it.
const WAIT: Duration = Duration::from_secs(5);

/// A question that the server may still answer.
struct Pull<'a> {
    queue: &'a NatsQueue,
    /// Until it was answered.
    inbox: Option<Subscriber>,
}

/// The next message, if one comes while the server listens to this question.
pub(super) async fn pull(
    queue: &NatsQueue,
    consumer: &PullConsumer,
) -> Result<Option<Message>, async_nats::Error> {
    let client = queue.0.jetstream.client();
    let inbox = Subject::from(client.new_inbox());
    let subscriber = timeout(ANSWER, client.subscribe(inbox.clone())).await??;
    let mut pull = Pull { queue, inbox: Some(subscriber) };
    let question = BatchConfig { batch: 1, expires: Some(WAIT), ..BatchConfig::default() };
    timeout(ANSWER, consumer.request_batch(question, inbox)).await??;
    let answer = timeout(WAIT + ANSWER, pull.next()).await.ok().flatten();
    let Some(answer) = answer else { return Ok(None) };
    match answer.message.status {
        None | Some(StatusCode::OK) => {
            pull.inbox = None;
            Ok(Some(answer))
        }
        Some(StatusCode::TIMEOUT) => {
            pull.inbox = None;
            Ok(None)
        }
        status => Err(format!("{status:?}: {}", answer.message.description.unwrap_or_default()).into()),
    }
}

impl Pull<'_> {
    async fn next(&mut self) -> Option<Message> {
        let message = self.inbox.as_mut()?.next().await?;
        Some(Message { message, context: self.queue.0.jetstream.clone() })
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let (Some(mut inbox), Ok(runtime)) = (self.inbox.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let queue = self.queue.clone();
        runtime.spawn(async move {
            let rest = async {
                inbox.drain().await.ok()?;
                inbox.next().await.filter(|message| message.status.is_none())
            };
            if let Ok(Some(message)) = timeout(ANSWER, rest).await {
                let message = Message { message, context: queue.0.jetstream.clone() };
                if let Some(delivery) = queue.delivery(message).await {
                    delivery.give_back().await;
                }
            }
        });
    }
}
