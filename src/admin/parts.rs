//! The parts of a server, as `/readyz?verbose` tells them: a line each.
//!
//! The form is that of the Kubernetes API server: `[+]store ok: ...`, `[-]store failed: ...`, and the
//! verdict as the last line. Most parts do not make a server unready when they fail, since another
//! server would be no better off; their lines say so.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::Ready;
use crate::core::shown::in_line;

/// How one part stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is: `store`, `stack main events`.
    pub name: String,
    /// Whether it does what it should.
    pub is_well: bool,
    /// Whether the server takes no clients without it.
    pub is_needed: bool,
    /// What there is to say.
    pub text: String,
}

impl Part {
    /// One that does what it should.
    pub fn well(name: impl Into<String>, text: impl Into<String>) -> Part {
        Part { name: name.into(), is_well: true, is_needed: false, text: text.into() }
    }

    /// One that does not; the server takes clients all the same.
    pub fn ill(name: impl Into<String>, text: impl Into<String>) -> Part {
        Part { name: name.into(), is_well: false, is_needed: false, text: text.into() }
    }

    /// The same; as long as it fails the server takes no clients.
    #[must_use]
    pub fn needed(self) -> Part {
        Part { is_needed: true, ..self }
    }

    fn line(&self) -> String {
        let Part { name, text, is_well, is_needed } = self;
        let text = in_line(text);
        match (is_well, is_needed) {
            (true, _) => format!("[+]{name} ok: {text}"),
            (false, true) => format!("[-]{name} failed: {text}"),
            (false, false) => format!("[-]{name} failed: {text} (does not make it unready)"),
        }
    }
}

type Look = Box<dyn Fn() -> Vec<Part> + Send + Sync>;

/// What is looked at when somebody asks. Cheap to clone; the same for all clones.
#[derive(Clone, Default)]
pub struct Parts(Arc<Mutex<Vec<Look>>>);

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl Parts {
    /// Looks with `look` too, from now on. It must not wait for anything.
    pub fn look_with(&self, look: impl Fn() -> Vec<Part> + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look));
    }

    /// How they stand now.
    #[must_use]
    pub fn now(&self) -> Vec<Part> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.iter().flat_map(|look| look()).collect()
    }

    /// The page: the server's own parts first, the verdict last.
    pub(super) fn page(&self, ready: Ready) -> String {
        let mut page = String::new();
        for part in own(ready).into_iter().chain(self.now()) {
            // Writing to a string can't fail.
            let _ = writeln!(page, "{}", part.line());
        }
        let verdict = if ready == Ready::Yes { "passed" } else { "failed" };
        let _ = writeln!(page, "readyz check {verdict}");
        page
    }
}

/// What `/readyz` goes by.
fn own(ready: Ready) -> [Part; 2] {
    let listeners = match ready {
        Ready::Starting => Part::ill("listeners", "not up yet").needed(),
        Ready::Yes | Ready::Draining => Part::well("listeners", "up"),
    };
    let drain = match ready {
        Ready::Draining => Part::ill("drain", "has begun: the server is stopping").needed(),
        Ready::Starting | Ready::Yes => Part::well("drain", "none has begun"),
    };
    [listeners, drain]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_a_line_and_the_verdict_is_that_of_readyz() {
        let parts = Parts::default();
        parts.look_with(|| vec![Part::ill("store", "redis does not answer"), Part::well("a", "b")]);
        let rest =
            "[-]store failed: redis does not answer (does not make it unready)\n[+]a ok: b\n";
        for (ready, own, verdict) in [
            (
                Ready::Starting,
                "[-]listeners failed: not up yet\n[+]drain ok: none has begun\n",
                "failed",
            ),
            (Ready::Yes, "[+]listeners ok: up\n[+]drain ok: none has begun\n", "passed"),
            (
                Ready::Draining,
                "[+]listeners ok: up\n[-]drain failed: has begun: the server is stopping\n",
                "failed",
            ),
        ] {
            assert_eq!(parts.page(ready), format!("{own}{rest}readyz check {verdict}\n"));
        }
    }

    /// Whoever may write the Lease chooses its holder.
    #[test]
    fn nobody_forges_a_line() {
        let line = Part::well("leader", "another process, foe\n[+]store ok: all is well").line();
        assert_eq!(line, "[+]leader ok: another process, foe\u{fffd}[+]store ok: all is well");
    }

    #[test]
    fn what_is_needed_is_not_excused() {
        let line = Part::ill("store", "redis is waited for").needed().line();
        assert_eq!(line, "[-]store failed: redis is waited for");
    }
}
