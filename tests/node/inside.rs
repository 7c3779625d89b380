//! The namespaces of a node: network, mounts and processes of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where everything of the node is that is a file, and the name of its control groups.
const STATE: &str = "CALLPLANE_NODE_STATE";
const GROUP: &str = "CALLPLANE_NODE_GROUP";

/// Control groups outlive processes for a moment.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs an ignored test of this program inside new namespaces, and panics if it fails. When it ends
/// in whatever manner, the kernel ends everything that runs in there.
pub fn run(test: &str) {
    let kept = std::env::var_os("E2E_KEEP").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let state = kept.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&state).unwrap();
    let group = format!("callplane-node-{}", std::process::id());
    // Should this process be killed, whatever it started is too.
    let mut unshare = Command::new("setpriv");
    unshare.args(["--pdeathsig", "KILL", "unshare"]);
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // The first process there has to wait for whom nobody else waits for; a shell does.
    unshare.args(["sh", "-c", "\"$@\"; exit $?", "sh"]).arg(std::env::current_exe().unwrap());
    unshare.args(["--exact", test, "--ignored", "--nocapture"]);
    unshare.env(STATE, &state).env(GROUP, &group).env("TMPDIR", &state);
    let status = unshare.status().unwrap();
    remove_groups(&group);
    for container in containers(&state) {
        remove_groups(&format!("k8s.io/{container}"));
    }
    assert!(status.success(), "{test} failed, see above");
}

/// A path where the node may write.
pub fn state(name: &str) -> PathBuf {
    let state = std::env::var_os(STATE).expect("the test runs inside");
    Path::new(&state).join(name)
}

/// The control group that all pods are in.
pub fn group() -> String {
    std::env::var(GROUP).expect("the test runs inside")
}

/// Whether this runs inside.
pub fn is_inside() -> bool {
    std::env::var_os(STATE).is_some()
}

/// The containers that were there when all ended. containerd makes a group of each, beside the one that
/// kubelet was told.
fn containers(state: &Path) -> Vec<String> {
    let cri = state.join("containerd/io.containerd.grpc.v1.cri");
    let kinds = ["containers", "sandboxes"].map(|kind| std::fs::read_dir(cri.join(kind)));
    let entries = kinds.into_iter().flatten().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// They are no part of any namespace.
fn remove_groups(name: &str) {
    let deadline = Instant::now() + DEADLINE;
    let top = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_dir(top).into_iter().flatten().flatten();
    let places = controllers.map(|entry| entry.path()).chain([top.to_owned()]);
    for group in places.map(|place| place.join(name)).filter(|group| group.is_dir()) {
        while let Err(error) = remove(&group) {
            assert!(Instant::now() < deadline, "{} can't be removed: {error}", group.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove(&path)?;
        }
    }
    std::fs::remove_dir(group)
}
