//! The trial's Redis with a password, run as the chart runs it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::helm;

/// All that a shell or Redis' configuration could take for something else.
const PASSWORD: &str = r#"a"b\c'd $HOME `id` #e\"#;

/// Ends it at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the container of the chart runs, in this folder instead of its own.
fn start(folder: &Path) -> Running {
    let sets = ["redis.embedded.enabled=true", "simulatedStack.enabled=true"];
    let objects = helm::objects_with(&[&sets[..], &["redis.existingSecret=redis"]].concat(), &[]);
    let pod = &helm::get(&objects, "StatefulSet", "callplane-redis")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let config = &helm::get(&objects, "ConfigMap", "callplane-redis")["data"]["redis.conf"];
    let here = |file: &str| folder.join(file).display().to_string();
    let config = config.as_str().unwrap().replace("dir /data", &format!("dir {}", here("")));
    let socket = format!("port 0\nunixsocket {}", here("socket"));
    let config = config.replace("port 6379", &socket);
    std::fs::write(folder.join("redis.conf"), config).unwrap();
    std::fs::write(folder.join("password"), format!("{PASSWORD}\n")).unwrap();
    let words = ["command", "args"].iter().flat_map(|key| container[key].as_array().unwrap());
    let words: Vec<String> = words
        .map(|word| word.as_str().unwrap().replace("/etc/redis/redis.conf", &here("redis.conf")))
        .map(|word| word.replace("/run/secrets/callplane/redis/password", &here("password")))
        .collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    Running(command.spawn().unwrap())
}

/// Its answers to these words, one connection.
fn answers(folder: &Path, asked: &[&[&str]]) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut line = loop {
        match UnixStream::connect(folder.join("socket")) {
            Ok(line) => break line,
            Err(why) => assert!(Instant::now() < deadline, "the trial's Redis: {why}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    line.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let answer = |words: &&[&str]| {
        let words: Vec<String> =
            words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        write!(line, "*{}\r\n{}", words.len(), words.concat()).unwrap();
        let mut bytes = [0; 512];
        let read = line.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..read]).trim_end().to_owned()
    };
    asked.iter().map(answer).collect()
}

#[test]
fn the_trials_redis_takes_the_password_and_shows_it_to_nobody() {
    let test = "the_trials_redis_takes_the_password_and_shows_it_to_nobody";
    if !helm::are_here(test, &["helm"]) {
        return;
    }
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("{test}: skipped, there is no redis-server");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let redis = start(folder.path());
    let said = answers(
        folder.path(),
        &[&["PING"], &["AUTH", PASSWORD], &["PING"], &["CONFIG", "GET", "maxmemory-policy"]],
    );
    assert!(said[0].starts_with("-NOAUTH"), "{said:?}");
    assert_eq!(said[1..3], ["+OK", "+PONG"], "{said:?}");
    assert!(said[3].contains("noeviction"), "the file counts, too: {said:?}");
    for file in ["cmdline", "environ"] {
        let shown = std::fs::read(format!("/proc/{}/{file}", redis.0.id())).unwrap();
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.contains("a\"b"), "{file}: {shown}");
    }
}
