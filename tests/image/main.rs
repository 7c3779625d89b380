//! The container image: its recipe read, and, where `IMAGE_ARCHIVE` names one that was built (`make
//! image`), the image itself, unpacked and run.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

mod built;
#[path = "../process/mod.rs"]
mod process;
mod ready;
mod recipe;
#[path = "../redis_server/mod.rs"]
mod redis_server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use recipe::{Stage, words};

/// The image's user: nobody that the machine knows.
const USER: &str = "65532:65532";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// Where it is built, and what it is.
fn stages() -> (Stage, Stage) {
    let [build, image] = <[Stage; 2]>::try_from(recipe::stages(&read("Dockerfile"))).unwrap();
    (build, image)
}

/// What stands behind `key = ` in the manifest or in the toolchain's file.
fn value(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key}")).trim().trim_matches('"').to_owned()
}

#[test]
fn it_is_built_by_the_toolchain_of_the_sources() {
    let (build, image) = stages();
    let toolchain = value(&read("rust-toolchain.toml"), "channel");
    let wanted = format!("--platform=$BUILDPLATFORM rust:{toolchain}-slim-bookworm AS build");
    assert_eq!(build.from, wanted);
    assert_eq!(image.from, "scratch");
    // The pages that say how it is built name no other.
    assert!(read(".ci/image").contains("rust:[^ ]*"), ".ci/image reads it off");
}

/// The names in the context that the recipe copies.
fn copied() -> BTreeSet<String> {
    let (build, image) = stages();
    let mut sources = BTreeSet::new();
    for text in build.all("COPY").chain(image.all("COPY")) {
        let mut names: Vec<_> = text.split(' ').collect();
        let _to = names.pop();
        if !names.iter().any(|name| name.starts_with("--from=")) {
            sources.extend(names.iter().map(|name| (*name).to_owned()));
        }
    }
    sources
}

#[test]
fn the_builder_is_given_what_it_copies_and_nothing_else() {
    let ignored = read(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"), "everything is kept out but what is named");
    let mut let_in = BTreeSet::new();
    for line in lines {
        let name = line.strip_prefix('!').unwrap_or_else(|| panic!("{line} keeps out again"));
        let_in.insert(name.to_owned());
    }
    assert_eq!(let_in, copied());
    for name in &let_in {
        assert!(root().join(name).exists(), "{name} is copied, and not there");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn what_the_sources_include_is_copied_with_them() {
    assert!(!root().join("build.rs").exists(), "a build script would have to be copied");
    let mut files = Vec::new();
    let src = root().join("src");
    sources(&src, &mut files);
    let mut included = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("\nmod tests {").next().unwrap();
        for include in ["include_str!(\"", "include_bytes!(\""] {
            for rest in text.split(include).skip(1) {
                let name = rest.split('"').next().unwrap();
                let path = file.parent().unwrap().join(name).canonicalize().unwrap();
                let inside = copied().iter().any(|copied| path.starts_with(root().join(copied)));
                assert!(inside, "{}: {name} is not copied", file.display());
                included += 1;
            }
        }
    }
    assert!(included > 5, "{included} files are included");
}

/// The recipe cuts the manifest off where the benches begin.
#[test]
fn behind_the_benches_stands_nothing_in_the_manifest() {
    let (build, _) = stages();
    assert!(build.all("RUN").any(|run| run.contains(r"sed -i '/^\[\[bench\]\]$/,$d' Cargo.toml")));
    let manifest = read("Cargo.toml");
    let (_, behind) = manifest.split_once("\n[[bench]]\n").unwrap();
    let sections: Vec<_> = behind.lines().filter(|line| line.starts_with('[')).collect();
    assert!(sections.iter().all(|section| *section == "[[bench]]"), "{sections:?}");
}

#[test]
fn no_shell_and_no_root_is_needed_to_run_it() {
    let (_, image) = stages();
    assert_eq!(image.only("USER"), USER, "a number: Kubernetes can't look a name up");
    assert_eq!(image.only("STOPSIGNAL"), "SIGTERM");
    assert_eq!(words(image.only("ENTRYPOINT")), ["/callplane"]);
    let (options, check) = image.only("HEALTHCHECK").split_once("CMD ").unwrap();
    assert!(options.contains("--timeout=5s"), "{options}");
    for (said, mut words) in [("CMD", words(image.only("CMD"))), ("HEALTHCHECK", words(check))] {
        if said == "HEALTHCHECK" {
            assert_eq!(words.remove(0), "/callplane");
        }
        let program = env!("CARGO_BIN_EXE_callplane");
        let known = Command::new(program).args(&words).arg("--help").output().unwrap();
        assert!(known.status.success(), "{said}: callplane knows no {words:?}");
    }
    assert_eq!(image.all("RUN").count(), 0, "nothing there could run it");
}

#[test]
fn it_says_what_it_is() {
    let (_, image) = stages();
    let manifest = read("Cargo.toml");
    let labels = image.only("LABEL").replace("org.opencontainers.image.", "");
    let is = |name: &str, wanted: &str| {
        assert!(
            labels.contains(&format!("{name}=\"{wanted}\"")),
            "{name} is not {wanted}: {labels}"
        );
    };
    is("title", &value(&manifest, "name"));
    is("licenses", &value(&manifest, "license"));
    for (name, default) in [("version", "version"), ("source", "repository")] {
        let argument = name.to_uppercase();
        is(name, &format!("${argument}"));
        assert_eq!(image.argument(&argument), Some(value(&manifest, default).as_str()));
    }
    is("revision", "$REVISION");
    let description = value(&manifest, "description");
    let (first, _) = description.split_once(". ").unwrap();
    is("description", &format!("{first}."));
}

#[test]
fn its_ports_are_those_of_the_defaults_and_its_configuration_is_theirs() {
    let (build, image) = stages();
    let defaults = read("src/config/default.yml");
    let port = |key: &str| {
        let line = defaults.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    };
    let ports: Vec<_> = image.only("EXPOSE").split(' ').collect();
    // Events have no port of their own unless one is chosen.
    assert_eq!(ports, [&port("address: 127"), &port("listen: 127"), "5065/udp"]);
    let at = image.only("ENV").strip_prefix("CALLPLANE_CONFIG=").unwrap();
    let put = format!("install -D -m 0644 src/config/default.yml /image{at}");
    assert!(build.all("RUN").any(|run| run.contains(&put)), "{put}");
}

/// Pods are replaced one after the other, and each waits for the one before. A built image is bounded
/// far closer ([`built`]); this is an unoptimised program on a machine that does other things as well.
#[test]
fn it_is_ready_at_once() {
    let program = || Command::new(env!("CARGO_BIN_EXE_callplane"));
    let times: Vec<_> = (0..3).map(|_| ready::after(program(), &[])).collect();
    println!("start to ready, unoptimised: {times:?}");
    let best = times.iter().min().unwrap();
    assert!(*best < Duration::from_secs(1), "{times:?}");
}
