//! (in work)
pub mod opensips;
pub mod simulated;
