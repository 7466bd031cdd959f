//! The front: pages, signalling and probes. It knows no pixels.
