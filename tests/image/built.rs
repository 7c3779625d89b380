//! The image that `IMAGE_ARCHIVE` names, a docker-archive: what is in it, and that it runs in nothing
//! but itself, as nobody. That takes root.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::SERVES;
use super::redis_server::{self, RedisServer};
use super::{USER, ready};

/// The most that it may measure, packed or not.
const SIZE: u64 = 25_000_000;

/// From the start of the process to its readiness.
const READY: Duration = Duration::from_millis(300);

/// How often that is measured.
const STARTS: usize = 20;

struct Image {
    config: Value,
    root: PathBuf,
    packed: u64,
    _folder: TempDir,
}

impl Image {
    /// The one that is named. Where none is, the test is skipped, and says so.
    fn named(test: &str) -> Option<Self> {
        let Some(archive) = std::env::var_os("IMAGE_ARCHIVE").map(PathBuf::from) else {
            println!("skipped: {test} (IMAGE_ARCHIVE names no image; `make image` builds one)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (parts, root) = (folder.path().join("parts"), folder.path().join("root"));
        unpack(&archive, &parts);
        let json = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(parts.join(name)).unwrap()).unwrap()
        };
        let manifest = json("manifest.json")[0].take();
        for layer in manifest["Layers"].as_array().unwrap() {
            unpack(&parts.join(layer.as_str().unwrap()), &root);
        }
        let config = json(manifest["Config"].as_str().unwrap())["config"].take();
        let packed = std::fs::metadata(&archive).unwrap().len();
        // Its user has to get there.
        for path in [folder.path(), &root] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Some(Self { config, root, packed, _folder: folder })
    }

    fn words(&self, key: &str) -> Vec<&str> {
        words(&self.config[key])
    }

    /// The entry point with the image's variables and root, as its user. Nothing of this machine but
    /// its network.
    fn program(&self) -> Command {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={USER}")).arg(&self.root).args(self.words("Entrypoint"));
        command.env_clear();
        let variables = self.words("Env");
        command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
        command
    }
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

fn unpack(archive: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let tar = Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(to).status().unwrap();
    assert!(tar.success(), "{} can't be unpacked", archive.display());
}

fn is_root(test: &str) -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    let is_root = id.stdout == b"0\n";
    if !is_root {
        println!("skipped: {test} (only root changes roots)");
    }
    is_root
}

fn files(folder: &Path, within: &Path, found: &mut BTreeSet<(String, u32, u64)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        if about.is_dir() {
            assert_eq!(about.permissions().mode() & 0o7777, 0o755, "{:?}", entry.path());
            files(&entry.path(), within, found);
        } else {
            let name = entry.path().strip_prefix(within).unwrap().display().to_string();
            found.insert((name, about.permissions().mode() & 0o7777, about.len()));
        }
    }
}

#[test]
fn it_is_small_and_has_nothing_but_the_program_and_what_that_reads() {
    let test = "it_is_small_and_has_nothing_but_the_program_and_what_that_reads";
    let Some(image) = Image::named(test) else { return };
    let mut found = BTreeSet::new();
    files(&image.root, &image.root, &mut found);
    let unpacked: u64 = found.iter().map(|(_, _, length)| length).sum();
    println!("the archive has {} bytes, its files {unpacked}: {found:#?}", image.packed);
    assert!(image.packed <= SIZE && unpacked <= SIZE);
    let is: Vec<_> = found.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
    let wanted = [
        ("LICENSE", 0o644),
        ("callplane", 0o755),
        ("etc/callplane/callplane.yml", 0o644),
        ("etc/ssl/certs/ca-certificates.crt", 0o644),
    ];
    assert_eq!(is, wanted);
    let certificates = image.root.join("etc/ssl/certs/ca-certificates.crt");
    let certificates = std::fs::read_to_string(certificates).unwrap();
    assert!(certificates.matches("BEGIN CERTIFICATE").count() > 100);

    assert_eq!(image.config["User"], USER);
    assert_eq!(image.words("Cmd"), ["serve"]);
    let labels = &image.config["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    let revision = labels["org.opencontainers.image.revision"].as_str().unwrap();
    assert!(revision.len() == 40, "{revision}");
}

#[test]
fn it_serves_in_an_empty_root_finds_names_and_tells_whether_it_lives() {
    let test = "it_serves_in_an_empty_root_finds_names_and_tells_whether_it_lives";
    if !is_root(test) {
        return;
    }
    let Some(image) = Image::named(test) else { return };
    let version = image.program().arg("--version").output().unwrap();
    assert_eq!(version.stdout, concat!("callplane ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    let check = image.program().arg("check-config").output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.ends_with("/etc/callplane/callplane.yml: good\n"), "{check:?}");

    std::fs::write(image.root.join("etc/hosts"), "127.0.0.7 clients.test\n").unwrap();
    let by_name = [
        ("CALLPLANE_LISTEN__ADDRESS", "clients.test:0"),
        ("CALLPLANE_LISTEN__INSECURE_OPEN", "true"),
    ];
    let (process, _) = ready::serve(image.program(), &by_name);
    assert_eq!(process.clients.ip().to_string(), "127.0.0.7", "{SERVES}");
    let operations = process.operations.unwrap().to_string();
    let healthy = || {
        let health = words(&image.config["Healthcheck"]["Test"]);
        let [kind, _, arguments @ ..] = health.as_slice() else { panic!("{health:?}") };
        assert_eq!(*kind, "CMD");
        let mut program = image.program();
        program.args(arguments).env("CALLPLANE_ADMIN__LISTEN", &operations);
        program.output().unwrap()
    };
    let lives = healthy();
    assert!(lives.status.success(), "{lives:?}");
    drop(process);
    let gone = healthy();
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

#[test]
fn it_is_ready_within_300_ms() {
    let test = "it_is_ready_within_300_ms";
    if !is_root(test) {
        return;
    }
    let Some(image) = Image::named(test) else { return };
    let redis = redis_server::is_here(test).then(RedisServer::start);
    let address = redis.map(|redis| (format!("127.0.0.1:{}", redis.port()), redis));
    let mut ways = vec![("memory", Vec::new())];
    if let Some((address, _)) = &address {
        ways.push(("redis", vec![("CALLPLANE_REDIS__ADDRESS", address.as_str())]));
    }
    for (store, variables) in ways {
        let times = (0..STARTS).map(|_| ready::after(image.program(), &variables)).collect();
        let (median, worst) = ready::median_and_worst(times);
        println!("{store}: ready after {median:?}, at worst {worst:?}, of {STARTS} starts");
        assert!(median <= READY, "{store}: {median:?}");
    }
}
