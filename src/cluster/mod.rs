//! How a front reaches a worker: messages and client.
