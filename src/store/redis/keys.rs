//! What things are called in Redis.
//!
//! Everything of a tenant carries its partition as a hash tag, so that in a cluster one script finds
//! all its keys on one server. A record's key is also its name in every index.

use std::fmt::Write as _;

use crate::core::command::Claim;
use crate::core::ids::{CommandId, Install, PodId, Scope, SessionId, StackId, TenantId};
use crate::core::partition::Partition;
use crate::core::record::Key;
use crate::core::stack_event::Watch;

/// The names of one installation.
#[derive(Debug, Clone)]
pub struct Keys {
    install: Install,
}

impl Keys {
    /// Names that no other installation of the same Redis has.
    #[must_use]
    pub fn new(install: Install) -> Self {
        Self { install }
    }

    fn of(&self, partition: Partition, rest: &str) -> String {
        format!("cp:{}:{{{}}}:{rest}", self.install, partition.number())
    }

    fn of_tenant(&self, tenant: &TenantId, kind: &str) -> String {
        self.of(Partition::of(tenant), &format!("{kind}:{}", Plain(tenant.as_str())))
    }

    /// A set: the partitions that have an epoch.
    #[must_use]
    pub fn partitions(&self) -> String {
        format!("cp:{}:partitions", self.install)
    }

    /// A hash: the epoch, and the run id of the server it belongs to.
    #[must_use]
    pub fn epoch(&self) -> String {
        format!("cp:{}:epoch", self.install)
    }

    /// A sorted set: processes by when they were last heard of.
    #[must_use]
    pub fn pods(&self) -> String {
        format!("cp:{}:pods", self.install)
    }

    /// A hash: up to when leaders have applied what each stack reported.
    #[must_use]
    pub fn applied(&self) -> String {
        format!("cp:{}:applied", self.install)
    }

    /// A string: the process that leads a stack.
    #[must_use]
    pub fn lease(&self, stack: &StackId) -> String {
        format!("cp:{}:lease:{}", self.install, Plain(stack.as_str()))
    }

    /// A set: the partitions in which somebody listens to this.
    #[must_use]
    pub fn route(&self, stack: &StackId, watch: &Watch) -> String {
        let (kind, what) = match watch {
            Watch::Call(call) => ("call", call.as_str()),
            Watch::Op(op) => ("op", op.as_str()),
        };
        format!("cp:{}:route:{}:{kind}:{what}", self.install, Plain(stack.as_str()))
    }

    /// A hash: the newest term that was drawn, by stack.
    #[must_use]
    pub fn terms(&self) -> String {
        format!("cp:{}:terms", self.install)
    }

    /// What is written to see how far the replicas are.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("cp:{}:mark", self.install)
    }

    /// A hash: epoch, the run id of the server it belongs to, terms, and each tenant's numbers.
    #[must_use]
    pub fn head(&self, partition: Partition) -> String {
        self.of(partition, "head")
    }

    /// The channel on which a partition's entries are published.
    #[must_use]
    pub fn channel(&self, partition: Partition) -> String {
        self.of(partition, "bus")
    }

    /// The partition whose channel this is.
    #[must_use]
    pub fn partition_of_channel(&self, channel: &str) -> Option<Partition> {
        let rest = channel.strip_prefix("cp:")?.strip_prefix(self.install.as_str())?;
        let number = rest.strip_prefix(":{")?.strip_suffix("}:bus")?;
        Partition::numbered(number.parse().ok()?)
    }

    /// A hash: one command.
    #[must_use]
    pub fn record(&self, key: &Key) -> String {
        let scope = match &key.scope {
            Scope::Session(session) => session.as_str(),
            Scope::OneShot => "-",
        };
        let mut name = self.of_tenant(&key.tenant, "r");
        // Writing to a string does not fail.
        let _ = write!(name, ":{scope}:{}", key.id);
        name
    }

    /// The command of this tenant whose record has this name.
    #[must_use]
    pub fn command(&self, tenant: &TenantId, record: &str) -> Option<Key> {
        let rest = record.strip_prefix(&self.of_tenant(tenant, "r"))?.strip_prefix(':')?;
        let (scope, id) = rest.split_once(':')?;
        let scope = match scope {
            "-" => Scope::OneShot,
            session => Scope::Session(SessionId::parse(session).ok()?),
        };
        Some(Key { tenant: tenant.clone(), scope, id: CommandId::parse(id).ok()? })
    }

    /// A stream: what a tenant was told.
    #[must_use]
    pub fn stream(&self, tenant: &TenantId) -> String {
        self.of_tenant(tenant, "e")
    }

    /// A sorted set: where each run of a session's entries begins, by where it ends.
    #[must_use]
    pub fn session(&self, tenant: &TenantId, session: &SessionId) -> String {
        // `commit.lua` puts other sessions in its place.
        format!("{}:{session}", self.of_tenant(tenant, "s"))
    }

    /// A sorted set: running commands by when they are due.
    #[must_use]
    pub fn due(&self, partition: Partition) -> String {
        self.of(partition, "due")
    }

    /// A set: running commands at a stack.
    #[must_use]
    pub fn at_stack(&self, partition: Partition, stack: &StackId) -> String {
        self.of(partition, &format!("at:{}", Plain(stack.as_str())))
    }

    /// A sorted set: a tenant's ended holds and ends by when they are forgotten.
    #[must_use]
    pub fn ended_others(&self, tenant: &TenantId) -> String {
        self.of_tenant(tenant, "eo")
    }

    /// A sorted set: a tenant's ended starts and transfers by when they are forgotten.
    #[must_use]
    pub fn ended_calls(&self, tenant: &TenantId) -> String {
        self.of_tenant(tenant, "ec")
    }

    /// A string: who has a claim, and until when it lingers. `commit.lua` knows `:call:`.
    #[must_use]
    pub fn claim(&self, tenant: &TenantId, stack: &StackId, claim: &Claim) -> String {
        let (kind, what) = match claim {
            Claim::Call(call) => ("call", call.as_str()),
            Claim::Caller(caller) => ("caller", caller.as_str()),
        };
        // What is claimed may have any printable character but a space, so it stands last.
        let (tenant_name, stack) = (Plain(tenant.as_str()), Plain(stack.as_str()));
        self.of(Partition::of(tenant), &format!("{kind}:{tenant_name}:{stack}:{what}"))
    }

    /// A set: running commands with an open operation of this process.
    #[must_use]
    pub fn performed_by(&self, partition: Partition, pod: &PodId) -> String {
        self.of(partition, &format!("by:{}", Plain(pod.as_str())))
    }

    /// A set: running commands that listen to this.
    #[must_use]
    pub fn watch(&self, partition: Partition, stack: &StackId, watch: &Watch) -> String {
        let (kind, what) = match watch {
            Watch::Call(call) => ("wc", call.as_str()),
            Watch::Op(op) => ("wo", op.as_str()),
        };
        self.of(partition, &format!("{kind}:{}:{what}", Plain(stack.as_str())))
    }
}

/// A name without what separates names.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{CallId, Nonce};

    fn tenant(name: &str) -> TenantId {
        serde_json::from_value(serde_json::Value::from(name)).unwrap()
    }

    #[test]
    fn a_record_s_name_leads_back_to_its_command() {
        let keys = Keys::new(Install::default());
        for whose in ["default", "a:b", "{x} y", "ä"] {
            for scope in [Scope::OneShot, Scope::Session(SessionId::derive(Nonce(7)))] {
                let id = CommandId::parse("a:b{c}:-").unwrap();
                let key = Key { tenant: tenant(whose), scope, id };
                let name = keys.record(&key);
                assert!(!name.contains(' '), "{name}");
                assert_eq!(keys.command(&key.tenant, &name), Some(key));
            }
        }
    }

    #[test]
    fn the_first_tag_of_every_name_is_the_partition() {
        let keys = Keys::new(Install::default());
        let whose = tenant("{evil}");
        let stack = StackId::new("{s}");
        let call = CallId::parse("{c}").unwrap();
        let tag = format!("cp:main:{{{}}}:", Partition::of(&whose).number());
        for name in [
            keys.stream(&whose),
            keys.ended_calls(&whose),
            keys.session(&whose, &SessionId::parse("session").unwrap()),
            keys.claim(&whose, &stack, &Claim::Call(call.clone())),
            keys.watch(Partition::of(&whose), &stack, &Watch::Call(call)),
        ] {
            assert!(name.starts_with(&tag), "{name}");
        }
    }

    #[test]
    fn a_channel_names_its_partition() {
        let keys = Keys::new(Install::default());
        for partition in Partition::all() {
            let channel = keys.channel(partition);
            assert_eq!(keys.partition_of_channel(&channel), Some(partition));
        }
        assert_eq!(keys.partition_of_channel("cp:main:{64}:bus"), None);
        assert_eq!(keys.partition_of_channel("cp:other:{1}:bus"), None);
    }
}
