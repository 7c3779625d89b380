//! From the configuration's words to each part's own settings.

use std::path::PathBuf;

use crate::client;
use crate::client::origin::Origins;
use crate::config::{self, Config, Stack};
use crate::core::ids::{PodId, StackId};
use crate::core::plan::Times;
use crate::engine;
use crate::leadership::kubernetes;
use crate::store::{Limits, redis};
use crate::traces::otlp;

/// What the engine is told.
pub fn engine(config: &Config, pod: PodId) -> engine::Settings {
    let times_at = config
        .stacks
        .iter()
        .map(|stack| (StackId::new(stack.name.as_str()), times(config, stack)))
        .collect();
    engine::Settings {
        pod,
        install: config.install.clone(),
        times: config.stacks.first().map_or_else(Times::default, |first| times(config, first)),
        times_at,
        keep_calls: config.store.keep_starts,
        keep_others: config.store.keep_others,
        one_start_per_caller: config.commands.caller_busy,
        running: engine::RUNNING,
    }
}

/// How long each phase may take at a stack.
pub fn times(config: &Config, stack: &Stack) -> Times {
    let commands = &config.commands;
    Times {
        ring: commands.ring_timeout,
        silence: Times::silence_of(stack.fr_timeout.unwrap_or(Stack::FR_TIMEOUT)),
        follow: commands.refer_follow,
        grace: commands.grace,
        reply: commands.mi_reply,
        ..Times::default()
    }
}

/// What the store keeps.
pub fn store(config: &Config) -> Limits {
    Limits {
        entries_for: config.store.keep_notices,
        entries_bytes: config.store.notices_bytes.bytes(),
        ..Limits::default()
    }
}

/// How Redis is reached; nothing where none is configured.
pub fn redis(config: &config::Redis) -> Option<redis::Settings> {
    let at = |address: &config::HostPort| redis::Address {
        host: address.host().to_owned(),
        port: address.port(),
    };
    let servers = match (&config.address, config.sentinels.as_slice()) {
        (Some(address), _) => redis::Servers::One(at(address)),
        (None, []) => return None,
        (None, sentinels) => redis::Servers::Sentinels {
            of: sentinels.iter().map(at).collect(),
            master: config.master.clone(),
        },
    };
    let path = |file: &String| PathBuf::from(file);
    let identity = config.tls_cert_file.as_ref().zip(config.tls_key_file.as_ref());
    let identity = identity.map(|(certificate, key)| redis::Identity {
        certificate: path(certificate),
        key: path(key),
    });
    let tls = config.tls_ca_file.as_ref().map(|ca| redis::Tls { ca: path(ca), identity });
    let access = |user: &Option<String>, password: &Option<String>| redis::Access {
        user: user.clone(),
        password: password.as_ref().map(path),
        tls: tls.clone(),
    };
    let (user, password) = (&config.sentinel_username, &config.sentinel_password_file);
    let of_their_own = user.is_some() || password.is_some();
    Some(redis::Settings {
        servers,
        database: u32::from(config.database),
        access: access(&config.username, &config.password_file),
        sentinel_access: of_their_own.then(|| access(user, password)),
        replicas: config.replicas,
    })
}

/// Which Lease elects the leader.
pub fn kubernetes(
    config: &config::Kubernetes,
    process: &PodId,
    chance: u8,
) -> kubernetes::Settings {
    kubernetes::Settings {
        server: config.server.as_ref().map(|server| format!("https://{server}")),
        account: PathBuf::from(&config.account),
        namespace: config.namespace.as_ref().map(|name| name.as_str().to_owned()),
        lease: config.lease.as_str().to_owned(),
        per_stack: config.per_stack,
        lasts: config.lease_duration,
        pod: pod_name(),
        process: process.as_str().to_owned(),
        jitter: kubernetes::JITTER * u32::from(chance) / u32::from(u8::MAX),
    }
}

/// What operators call this process: the pod's name, which Kubernetes can tell in `POD_NAME`, and which
/// the machine usually has for a name too.
fn pod_name() -> String {
    let told = std::env::var("POD_NAME").ok();
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = told.or_else(machine).map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "callplane".to_owned())
}

/// Where traces go; nothing where they go nowhere.
pub fn traces(config: &config::Traces) -> Option<otlp::Settings> {
    let collector = config.otlp.as_ref()?;
    Some(otlp::Settings {
        collector: collector.to_string(),
        tls: collector.tls.then(|| match &config.ca_file {
            Some(file) => otlp::Trust::File(PathBuf::from(file)),
            None => otlp::Trust::System,
        }),
        sample: config.sample.millionths(),
    })
}

/// What the client port allows.
pub fn client(config: &Config) -> client::Settings {
    let limits = &config.limits;
    let named = config.listen.origins.iter().map(|origin| origin.as_str().to_owned()).collect();
    client::Settings {
        path: config.listen.path.as_str().to_owned(),
        connections: limits.sessions,
        requests: limits.sessions,
        message_bytes: limits.max_message.bytes(),
        batch: limits.max_batch,
        commands: limits.commands_in_flight,
        outbound_bytes: limits.outbound_bytes.bytes(),
        ping_every: limits.ping_interval,
        idle_timeout: limits.idle_timeout,
        // A quarter is for closing, and the last one to be told takes its time, too.
        drain_spread: config.drain.timeout.mul_f32(0.125),
        origins: Origins { named, authenticated: false },
    }
}
