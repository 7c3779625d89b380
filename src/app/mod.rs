//! The composition root: the only place that knows every adapter.

mod desk;
mod host;
