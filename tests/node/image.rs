//! Images of programs of this machine: one layer with a program and the libraries that it loads.

use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde_json::json;

use super::inside::state;
use super::programs::CONTAINERD;
use super::run;

/// The image of what holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:test";

/// Whom this machine trusts: images of programs that speak TLS have it.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub struct Image {
    names: Vec<String>,
    folder: PathBuf,
    entry: Vec<String>,
}

/// What holds a pod's namespaces: it has nothing to do.
pub fn pause() -> Image {
    Image::of(&[PAUSE], Path::new("/bin/sleep"), "/pause", &["infinity"])
}

impl Image {
    /// One of these full names, whose program stands at `at` and is run with these arguments.
    pub fn of(names: &[&str], program: &Path, at: &str, arguments: &[&str]) -> Self {
        let folder = state("images").join(at.trim_start_matches('/').replace('/', "-"));
        let image = Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            entry: [&[at], arguments].concat().iter().map(|&word| word.to_owned()).collect(),
            folder,
        };
        image.add(program, at);
        let program = program.display().to_string();
        for library in run("ldd", &[&program]).split_whitespace() {
            if library.starts_with('/') && Path::new(library) != Path::new(&program) {
                image.add(Path::new(library), library);
            }
        }
        image.add(Path::new(AUTHORITIES), AUTHORITIES);
        image
    }

    fn layer(&self) -> PathBuf {
        self.folder.join("layer")
    }

    fn add(&self, file: &Path, at: &str) {
        let to = self.layer().join(at.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }

    /// Gives it to containerd, in the form of an archive of Docker.
    pub fn import(&self) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let owner = ["--owner=0", "--group=0", "--mode=a+rX"];
        let layer = ["-C", &path("layer"), "-cf", &path("layer.tar"), "."];
        run("tar", &[&owner[..], &layer].concat());
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entry, "Env": ["PATH=/usr/bin:/bin"], "User": "65532"},
            "rootfs": {"type": "layers", "diff_ids": [sum(Path::new(&path("layer.tar")))]},
        });
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let manifest = json!([
            {"Config": "config.json", "RepoTags": self.names, "Layers": ["layer.tar"]},
        ]);
        std::fs::write(path("manifest.json"), manifest.to_string()).unwrap();
        let parts = ["manifest.json", "config.json", "layer.tar"];
        let image = path("image.tar");
        run("tar", &[&["-C", &path("."), "-cf", &image][..], &parts].concat());
        run("ctr", &["--address", CONTAINERD, "-n", "k8s.io", "images", "import", &image]);
    }
}

fn sum(file: &Path) -> String {
    let sum = digest(&SHA256, &std::fs::read(file).unwrap());
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
