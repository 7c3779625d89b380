//! What travels into the scripts and out of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, Value, from_redis_value};
use serde_json::{from_slice, to_string};

use super::illegible::Illegible;
use super::keys::Keys;
use super::reach::Live;
use super::script::Script;
use crate::core::command::{Claim, Taking};
use crate::core::ids::{Epoch, PodId, StackId, TenantId, Term};
use crate::core::partition::Partition;
use crate::core::record::{Entry, Key, Record};
use crate::core::time::StoreTime;
use crate::store::{Away, Commit, Limits, Pulse, Verdict};

/// What Redis holds or said is not what we write: an operator's hand, or a defect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unintelligible {
    #[error("redis answered {0:?}")]
    Answer(Value),
    #[error("a stored value can't be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a value of redis can't be read: {0}")]
    Value(#[from] redis::ParsingError),
    #[error("redis holds a key that is none of ours: {0}")]
    Key(String),
    #[error("a number can't be read: {0}")]
    Number(#[from] std::num::ParseIntError),
}

/// A commit as the script takes it.
pub(super) struct Written {
    record: Record,
    claims: Vec<Claim>,
    keys: Vec<String>,
    /// What stands behind the server's run id.
    arguments: Vec<String>,
    quota: usize,
}

impl Written {
    pub(super) fn of(
        commit: Commit,
        names: &Keys,
        limits: &Limits,
    ) -> Result<Self, Unintelligible> {
        let Commit { record, nonce, not_after, epoch, term, notices, quota, keep, durable: _ } =
            commit;
        let tenant = &record.key.tenant;
        let partition = Partition::of(tenant);
        let state = &record.state;
        let stack = &state.plan.stack;
        let claims = state.claims();
        let ended_others = names.ended_others(tenant);
        let ended_calls = names.ended_calls(tenant);
        let mut keys = vec![
            names.head(partition),
            names.record(&record.key),
            names.stream(tenant),
            names.due(partition),
            names.at_stack(partition, stack),
            ended_others,
            ended_calls,
            names.session(tenant, &record.session),
        ];
        keys.extend(claims.iter().map(|(claim, _)| names.claim(tenant, stack, claim)));
        keys.extend(state.watches().iter().map(|watch| names.watch(partition, stack, watch)));
        keys.extend(state.performers().iter().map(|pod| names.performed_by(partition, pod)));
        let takings = claims.iter().map(|(_, taking)| match taking {
            Taking::Ask => '?',
            Taking::Overtake => '!',
        });
        let optional = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
        let flag = |is: bool| if is { "1" } else { "0" }.to_owned();
        let mut arguments = vec![
            epoch.as_str().to_owned(),
            format!("{:032x}", nonce.0),
            not_after.0.to_string(),
            optional(term.map(|term| term.0)),
            record.version.to_string(),
            quota.map_or_else(String::new, |quota| quota.running.to_string()),
            milliseconds(keep).to_string(),
            tenant.as_str().to_owned(),
            stack.as_str().to_owned(),
            flag(state.outcome().is_some()),
            optional(state.due().map(|at| at.0)),
            optional(state.claims_linger().map(|at| at.0)),
            flag(state.method.places_calls()),
            to_string(&record)?,
            names.channel(partition),
            milliseconds(limits.entries_for).to_string(),
            limits.entries_bytes.to_string(),
            limits.ended.to_string(),
            claims.len().to_string(),
            takings.collect(),
            record.session.as_str().to_owned(),
        ];
        for notice in notices {
            // The script gives it its number.
            arguments.push(to_string(&Entry::of(&record, 0, notice))?);
        }
        let claims = claims.into_iter().map(|(claim, _)| claim).collect();
        let quota = quota.map_or(usize::MAX, |quota| quota.running);
        Ok(Self { record, claims, keys, arguments, quota })
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.record.key.tenant
    }

    pub(super) fn command(&self, live: &Live) -> Cmd {
        let mut command = Script::Commit.over(live);
        command.arg(self.keys.len()).arg(&self.keys);
        command.arg(&*live.run_id).arg(&self.arguments);
        command
    }

    /// What the script's answer says. It is asked once more where the partition had no epoch.
    pub(super) fn verdict(
        self,
        answer: Value,
        names: &Keys,
        illegible: &Illegible,
    ) -> Result<Verdict, Unintelligible> {
        let mut parts = Parts::of(answer)?;
        let word: String = parts.next()?;
        Ok(match word.as_str() {
            "APPLIED" | "AGAIN" => {
                let Place { first_seq, now, overtaken } =
                    self.place(&parts.next::<String>()?, names)?;
                // Of a repeat it may be newer than what was written.
                let stored = (word == "AGAIN").then(|| illegible.pass_over(parts.record()));
                let record = stored.flatten().unwrap_or_else(|| self.written(first_seq));
                Verdict::Applied { first_seq, now, overtaken, record, durable: true }
            }
            "EXISTS" => {
                illegible.pass_over(parts.record()).map_or(Verdict::Illegible, Verdict::Exists)
            }
            "STALE" => {
                illegible.pass_over(parts.record()).map_or(Verdict::Illegible, Verdict::Stale)
            }
            "GONE" => Verdict::Gone,
            "LATE" => Verdict::Late,
            "FENCED" => Verdict::Fenced(Term(parts.next()?)),
            "EPOCH" => Verdict::EpochChanged(epoch(&parts.next::<String>()?)?),
            "OVER" => Verdict::Over { limit: self.quota },
            "BUSY" => {
                let (place, by, until): (usize, String, u64) =
                    (parts.next()?, parts.next()?, parts.next()?);
                let claim = place.checked_sub(1).and_then(|place| self.claims.get(place)).cloned();
                let claim = claim.ok_or_else(|| Unintelligible::Key(word))?;
                let by = self.command_of(&by, names)?.id;
                Verdict::Busy { claim, by, until: (until > 0).then_some(StoreTime(until)) }
            }
            _ => return Err(Unintelligible::Key(word)),
        })
    }

    /// The record, as it was written there.
    fn written(self, at: u64) -> Arc<Record> {
        let first_seq = if self.record.version == 1 { at } else { self.record.first_seq };
        Arc::new(Record { first_seq, ..self.record })
    }

    fn command_of(&self, record: &str, names: &Keys) -> Result<Key, Unintelligible> {
        let key = names.command(self.tenant(), record);
        key.ok_or_else(|| Unintelligible::Key(record.to_owned()))
    }

    /// `first_seq now not_after`, then the records that lost a claim.
    fn place(&self, line: &str, names: &Keys) -> Result<Place, Unintelligible> {
        let mut words = line.split(' ');
        let mut number = || words.next().unwrap_or_default().parse();
        let (first_seq, now) = (number()?, StoreTime(number()?));
        let overtaken = words.skip(1).map(|record| self.command_of(record, names));
        Ok(Place { first_seq, now, overtaken: overtaken.collect::<Result<_, _>>()? })
    }
}

/// Where and when a commit was applied.
struct Place {
    first_seq: u64,
    now: StoreTime,
    overtaken: Vec<Key>,
}

/// The parts of an answer, one after the other.
pub(super) struct Parts(std::vec::IntoIter<Value>);

impl Parts {
    pub(super) fn of(answer: Value) -> Result<Self, Unintelligible> {
        match answer {
            Value::Array(parts) | Value::Set(parts) => Ok(Self(parts.into_iter())),
            other => Err(Unintelligible::Answer(other)),
        }
    }

    pub(super) fn next<T: FromRedisValue>(&mut self) -> Result<T, Unintelligible> {
        Ok(from_redis_value(self.0.next().unwrap_or_default())?)
    }

    /// A record and its `first_seq`, which the record itself does not know.
    pub(super) fn record(&mut self) -> Result<Arc<Record>, Unintelligible> {
        let (json, first_seq): (Vec<u8>, u64) = (self.next()?, self.next()?);
        let record: Record = from_slice(&json)?;
        Ok(Arc::new(Record { first_seq, ..record }))
    }

    /// Entries, each behind its position, but for those that can't be read.
    pub(super) fn entries(
        mut self,
        illegible: &Illegible,
    ) -> Result<Vec<Arc<Entry>>, Unintelligible> {
        let mut entries = Vec::with_capacity(self.0.len() / 2);
        while self.0.len() > 0 {
            let (seq, json): (u64, Vec<u8>) = (self.next()?, self.next()?);
            entries.extend(illegible.pass_over(entry(&json, seq)));
        }
        Ok(entries)
    }
}

/// What is known of all processes.
pub(super) fn pulse(answer: Value) -> Result<Pulse, Unintelligible> {
    let mut parts = Parts::of(answer)?;
    let _word: String = parts.next()?;
    let epoch = epoch(&parts.next::<String>()?)?;
    let now = StoreTime(parts.next()?);
    let mut pods = || -> Result<BTreeSet<PodId>, Unintelligible> {
        Ok(parts.next::<Vec<String>>()?.iter().map(|pod| PodId::new(pod)).collect())
    };
    let (alive, silent) = (pods()?, pods()?);
    let applied: Vec<(String, u64)> = parts.next()?;
    let applied =
        applied.into_iter().map(|(stack, at)| (StackId::new(&stack), StoreTime(at))).collect();
    Ok(Pulse { epoch, now, alive, silent, applied })
}

/// Records, and the names of others. One that can't be read keeps nobody from the others.
pub(super) fn found(
    answer: Value,
    illegible: &Illegible,
) -> Result<(Vec<Arc<Record>>, Vec<String>), Unintelligible> {
    let mut parts = Parts::of(answer)?;
    let mut stored = Parts::of(parts.next()?)?;
    let mut records = Vec::with_capacity(stored.0.len() / 2);
    while stored.0.len() > 0 {
        records.extend(illegible.pass_over(stored.record()));
    }
    Ok((records, parts.next()?))
}

/// One record, where there is one: the inner result says whether it can be read.
pub(super) fn record(
    answer: Value,
) -> Result<Option<Result<Arc<Record>, Unintelligible>>, Unintelligible> {
    let mut parts = Parts::of(answer)?;
    if matches!(parts.0.as_slice().first(), Some(Value::Nil)) {
        return Ok(None);
    }
    Ok(Some(parts.record()))
}

/// An entry, as it was written, at its position.
pub(super) fn entry(json: &[u8], seq: u64) -> Result<Arc<Entry>, Unintelligible> {
    let entry: Entry = from_slice(json)?;
    Ok(Arc::new(Entry { seq, ..entry }))
}

pub(super) fn epoch(text: &str) -> Result<Epoch, Unintelligible> {
    Epoch::parse(text).map_err(|_| Unintelligible::Key(text.to_owned()))
}

/// An answer of a word, the epoch and a number.
pub(super) fn in_epoch(answer: Value) -> Result<(Epoch, u64), Unintelligible> {
    let mut parts = Parts::of(answer)?;
    let _word: String = parts.next()?;
    Ok((epoch(&parts.next::<String>()?)?, parts.next()?))
}

/// A tenant by its name in a head.
pub(super) fn tenant(name: &str) -> Result<TenantId, Unintelligible> {
    Ok(serde_json::from_value(serde_json::Value::from(name))?)
}

/// A partition's head.
pub(super) struct Head {
    pub(super) epoch: Epoch,
    /// Of each tenant: where the epoch began, and the newest position.
    pub(super) streams: Vec<(TenantId, u64, u64)>,
}

impl Head {
    /// A head as it is stored; `None` where there is none.
    pub(super) fn of(fields: HashMap<String, String>) -> Result<Option<Self>, Away> {
        let Some(named) = fields.get("epoch") else { return Ok(None) };
        let epoch = epoch(named).map_err(|error| away(&error))?;
        let mut streams = Vec::new();
        for (field, newest) in &fields {
            let Some(name) = field.strip_prefix("seq:") else { continue };
            let base = fields.get(&format!("base:{name}")).map_or("0", String::as_str);
            let tenant = tenant(name).map_err(|error| away(&error))?;
            streams.push((tenant, position(base)?, position(newest)?));
        }
        Ok(Some(Self { epoch, streams }))
    }
}

fn position(text: &str) -> Result<u64, Away> {
    text.parse().map_err(|error: std::num::ParseIntError| away(&error.into()))
}

/// A pipeline of one.
pub(super) fn one(command: redis::Cmd) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command);
    pipeline
}

/// What can't be understood is no answer: it is said, and nothing is concluded from it.
pub(super) fn away(error: &Unintelligible) -> Away {
    tracing::error!(%error, "redis: not understood");
    Away
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
