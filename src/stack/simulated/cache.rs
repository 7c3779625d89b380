//! `cachedb_local` as the reference script uses it: marks, counts and tokens. A stock script
//! does not load it.

use std::time::Duration;

use serde_json::json;

use super::commands::Params;
use super::world::World;
use crate::stack::mi::MiAnswer;

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
        self.cache_put(name, "1", None);
        first
    }

    pub(super) fn cache_put(&mut self, name: &str, value: &str, life: Option<Duration>) {
        // Whole seconds: a value for N seconds is there for N to N+1 (measured).
        let until = life.map(|l| Duration::from_secs(self.now.as_secs()).saturating_add(l));
        self.cache.insert(name.to_owned(), (value.to_owned(), until));
    }

    pub(super) fn cache_get(&self, name: &str) -> Option<&str> {
        let (value, until) = self.cache.get(name)?;
        until.is_none_or(|u| u.as_secs() >= self.now.as_secs()).then_some(value.as_str())
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
        self.cache.remove(&*params.text("attr")?);
        Ok(MiAnswer::Result("OK".into()))
    }
}
