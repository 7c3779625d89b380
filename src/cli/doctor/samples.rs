//! The metrics of a running server, read back from their text.

/// What `GET /metrics` showed.
pub struct Samples<'a>(Vec<Sample<'a>>);

/// One line of it.
pub struct Sample<'a> {
    /// The name.
    pub name: &'a str,
    /// What stands between the braces.
    pub labels: &'a str,
    /// The value.
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label. Ours have no quotes in them.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.split("\",").find_map(|pair| {
            let (label, value) = pair.split_once("=\"")?;
            (label == name).then(|| value.trim_end_matches('"'))
        })
    }
}

impl<'a> Samples<'a> {
    /// Reads them. What is not understood is passed over.
    pub fn of(text: &'a str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels = labels.trim_end_matches('}');
            Some(Sample { name, labels, value: value.parse().ok()? })
        });
        Self(samples.collect())
    }

    /// Those of this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Sample<'a>> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// Those whose names begin so.
    pub fn of_area(&self, start: &str) -> impl Iterator<Item = &Sample<'a>> {
        self.0.iter().filter(move |sample| sample.name.starts_with(start))
    }

    /// The only one of this name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.named(name).map(|sample| sample.value).next()
    }

    /// All of this name together.
    pub fn sum(&self, name: &str) -> f64 {
        // The sum of none of them would be -0.
        self.named(name).map(|sample| sample.value).fold(0.0, |sum, value| sum + value)
    }

    /// All of this name and stack together; nothing where there is none.
    pub fn of_stack(&self, name: &str, stack: &str) -> Option<f64> {
        let values = self.named(name).filter(|sample| sample.label("stack") == Some(stack));
        values.map(|sample| sample.value).reduce(|sum, value| sum + value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_shows_is_read_back() {
        let metrics = crate::metrics::Metrics::new();
        metrics.store.beat(3);
        for stack in ["east", "west"] {
            metrics.stack(stack).event("E_DLG_STATE_CHANGED", "reported");
        }
        metrics.stack("east").event("other", "ignored");
        let text = metrics.render().unwrap();
        let samples = Samples::of(&text);
        assert_eq!(samples.value("callplane_store_alive_processes"), Some(3.0));
        let events = "callplane_event_received_events_total";
        assert_eq!(samples.of_stack(events, "east"), Some(2.0));
        assert_eq!(samples.of_stack(events, "north"), None);
        assert_eq!(samples.sum(events), 3.0);
        assert_eq!(samples.sum("callplane_nothing").to_string(), "0");
        let version = samples.named("callplane_process_build_state").next().unwrap();
        assert_eq!(version.label("version"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(version.label("stack"), None);
        assert!(samples.of_area("callplane_session_").count() > 3);
    }
}
