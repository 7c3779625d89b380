use super::{Broken, History, conversation::Client}; pub fn judge(_: &History, _: &Client, _: &mut Vec<Broken>) {} pub fn judge_terms(_: &History, _: &mut Vec<Broken>) {}
