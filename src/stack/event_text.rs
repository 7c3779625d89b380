//! Events are read as they are: they come in bursts, and a tree of all their text would cost more than
//! what they mean.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::mi::{Members, MiEvent, MiParams};

impl<'de> Deserialize<'de> for MiEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfEvent)
    }
}

impl<'de> Deserialize<'de> for MiParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfParams)
    }
}

/// A name; those that events usually have take no memory.
struct Name(Cow<'static, str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(OfName)
    }
}

/// The names of the events that are subscribed to and of their parameters, most frequent first.
const USUAL: [&str; 23] = [
    "callid",
    "method",
    "params",
    "jsonrpc",
    "id",
    "db_id",
    "from_tag",
    "to_tag",
    "old_state",
    "new_state",
    "E_DLG_STATE_CHANGED",
    "kind",
    "op",
    "info",
    "from",
    "ruri",
    "E_CALLPLANE",
    "leg",
    "transfer_callid",
    "destination",
    "state",
    "status",
    "action",
];

struct OfName;

impl Visitor<'_> for OfName {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
        let usual = USUAL.iter().find(|usual| **usual == text);
        Ok(Name(usual.map_or_else(|| Cow::Owned(text.to_owned()), |usual| Cow::Borrowed(*usual))))
    }
}

struct OfEvent;

impl<'de> Visitor<'de> for OfEvent {
    type Value = MiEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MiEvent, A::Error> {
        let (mut name, mut params) = (None, MiParams::None);
        while let Some(Name(member)) = map.next_key()? {
            match &*member {
                "method" => name = Some(map.next_value::<Name>()?.0),
                "params" => params = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let name = name.ok_or_else(|| de::Error::missing_field("method"))?;
        Ok(MiEvent { name, params })
    }
}

struct OfParams;

impl<'de> Visitor<'de> for OfParams {
    type Value = MiParams;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MiParams, A::Error> {
        let mut members: Members = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry::<Name, Value>()? {
            members.push((name, value));
        }
        Ok(MiParams::Named(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MiParams, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(MiParams::Positional(values))
    }
}
