//! `cachedb_local` as the reference script uses it: marks, counts and tokens. A stock script
//! does not load it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use super::commands::Params;
use super::world::World;
use crate::stack::mi::MiAnswer;

/// Names, values and when they end (virtual time; none: never).
#[derive(Debug, Clone, Default)]
pub(super) struct Cache {
    entries: HashMap<String, (String, Option<Duration>)>,
    /// Once there are so many entries, those that have ended are taken out.
    sweep_at: usize,
}

/// Fewer entries are never swept.
const SWEEP_FROM: usize = 4096;

impl Cache {
    fn ended(until: Option<Duration>, now: Duration) -> bool {
        until.is_some_and(|u| u.as_secs() < now.as_secs())
    }

    fn put(&mut self, name: &str, value: &str, until: Option<Duration>, now: Duration) {
        self.entries.insert(name.to_owned(), (value.to_owned(), until));
        if self.entries.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.entries.retain(|_, (_, until)| !Cache::ended(*until, now));
            self.sweep_at = self.entries.len() * 2;
        }
    }

    fn get(&self, name: &str, now: Duration) -> Option<&str> {
        let (value, until) = self.entries.get(name)?;
        (!Cache::ended(*until, now)).then_some(value.as_str())
    }

    /// A restart forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

impl World {
    /// What the reference script stores when the process starts: `cp_cfg_version`, so that a
    /// connector can tell the grade (`1 socket fr_timeout fr_inv_timeout`, times in seconds).
    pub(super) fn fill_cache(&mut self) {
        if self.reference() {
            let text = format!(
                "1 udp:{} {} {}",
                self.callplane_socket,
                self.config.fr_timeout.as_secs(),
                self.config.fr_inv_timeout.as_secs()
            );
            self.cache_put("cp_cfg_version", &text, None);
        }
    }

    /// Counts a use (`cache_add` in the script); false if it is not the first.
    pub(super) fn first_use(&mut self, name: &str) -> bool {
        let first = self.cache_get(name).is_none();
        self.cache_put(name, "1", Some(self.config.mark_life));
        first
    }

    pub(super) fn cache_put(&mut self, name: &str, value: &str, life: Option<Duration>) {
        // Whole seconds: a value for N seconds is there for N to N+1 (measured).
        let until = life.map(|l| Duration::from_secs(self.now.as_secs()).saturating_add(l));
        self.cache.put(name, value, until, self.now);
    }

    pub(super) fn cache_get(&self, name: &str) -> Option<&str> {
        self.cache.get(name, self.now)
    }

    fn cache_system(&self, params: &Params<'_>, what: &str) -> Result<(), MiAnswer> {
        if params.text("system")? == "local" && self.reference() {
            Ok(())
        } else {
            Err(MiAnswer::error(500, format!("Cache {what} command failed")))
        }
    }

    pub(super) fn cache_store(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        self.cache_system(params, "store")?;
        let (name, value) = (params.text("attr")?, params.text("value")?);
        let life = params
            .optional_text("expire")?
            .map(|e| e.parse::<u64>().map_err(|_| params.bad_type("expire")))
            .transpose()?
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        self.cache_put(&name, &value, life);
        Ok(MiAnswer::Result("OK".into()))
    }

    pub(super) fn cache_fetch(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        self.cache_system(params, "fetch")?;
        let name = params.text("attr")?;
        match self.cache_get(&name) {
            Some(value) => Ok(MiAnswer::Result(json!({"key": name, "value": value}))),
            None => Err(MiAnswer::error(400, "Value not found")),
        }
    }

    pub(super) fn cache_remove(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        self.cache_system(params, "remove")?;
        self.cache.entries.remove(&*params.text("attr")?);
        Ok(MiAnswer::Result("OK".into()))
    }
}
