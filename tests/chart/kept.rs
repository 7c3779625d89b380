//! Files that follow from others.

use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The chart.
pub fn chart() -> PathBuf {
    root().join("charts/callplane")
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The file must say this; with `UPDATE_CHART=1` it is made to.
pub fn must_say(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE_CHART").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, wanted).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    if written == wanted {
        return;
    }
    let differs = written.lines().zip(wanted.lines()).position(|(one, other)| one != other);
    let at = differs.unwrap_or_else(|| written.lines().count().min(wanted.lines().count()));
    panic!(
        "{} does not follow from its source any more, from line {}:\n  is     {}\n  wanted {}\n\
         UPDATE_CHART=1 cargo test --test chart writes it anew",
        path.display(),
        at + 1,
        written.lines().nth(at).unwrap_or("(its end)"),
        wanted.lines().nth(at).unwrap_or("(its end)"),
    );
}
