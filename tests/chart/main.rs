//! The chart, and the manifests that are rendered from it.
//!
//! What is written in two places is compared: the configuration's keys and the chart's schema, the
//! values and their table, the chart and `k8s`. `UPDATE_CHART=1 cargo test --test chart` writes the second
//! place anew. Rendering wants Helm, and a real API server judges what is rendered (`.ci/install
//! kubernetes`); where they are missing these tests are skipped, and say so.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it skips"
)]

mod access;
#[path = "../api_server/mod.rs"]
mod api_server;
mod config_schema;
mod crds;
mod documented;
mod dry_run;
mod embedded_redis;
mod grace;
mod helm;
mod kept;
mod kustomize;
mod peers;
mod refusals;
mod release;
mod rendered;
mod taken;
mod texts;
mod values;
