use super::{Broken, History, conversation::Client}; pub fn judge_answers(_: &Client, _: &mut Vec<Broken>) {} pub fn judge_phones(_: &History, _: &[Client], _: &mut Vec<Broken>) {}
