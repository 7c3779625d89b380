//! Where Kubernetes' programs stand.

use std::path::PathBuf;
use std::sync::LazyLock;

/// The version that `.ci/kubernetes` builds.
const FOLDER: &str = "kubernetes-1.36.3";

static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("KUBERNETES_BIN").unwrap_or_else(|| {
        let cache = || named("HOME").unwrap_or_default().join(".cache/callplane");
        named("CALLPLANE_TOOLS").unwrap_or_else(cache).join(FOLDER)
    })
});

/// The path of one of them.
pub fn program(name: &str) -> PathBuf {
    PROGRAMS.join(name)
}

/// Whether an API server can be started; says that a test has one, or that it is skipped.
pub fn is_here(test: &str) -> bool {
    are_here(test, &["etcd", "kube-apiserver", "kubectl"])
}

/// Whether these are all there; says so, or that the test is skipped.
pub fn are_here(test: &str, programs: &[&str]) -> bool {
    let folder = PROGRAMS.display();
    let missing = programs.iter().find(|name| !program(name).is_file());
    match missing {
        None => println!("{test}: {folder}"),
        Some(name) => {
            println!("skipped: {test} ({name} is not in {folder}: .ci/install kubernetes)")
        }
    }
    missing.is_none()
}
