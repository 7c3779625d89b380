//! (in work)
pub mod mi;
pub mod opensips;
pub mod simulated;
