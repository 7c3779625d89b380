//! Reading the named parameters of a request, one by one, so that a refusal names the field.
//!
//! Unknown parameters are ignored, `null` counts as absent. The old server took strings only;
//! where a parameter is a number or a switch its text is taken as well (`"30"`, `"true"`).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Kind, Refusal};
use super::frame::text_of;

/// The members of a `params` object.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Fields<'a> {
    /// Opens the raw `params` of a request; absent ones are an empty object.
    ///
    /// # Errors
    /// Positional parameters are refused: no method defines an order.
    pub fn open(params: Option<&'a str>) -> Result<Self, Refusal> {
        let Some(raw) = params else {
            return Ok(Self::default());
        };
        if raw.starts_with('[') {
            return Err(Refusal::new(Kind::BadParams)
                .at("params")
                .because("positional parameters are not taken; send an object"));
        }
        serde_json::from_str(raw)
            .map_err(|_| Refusal::new(Kind::BadParams).at("params").because("must be an object"))
    }

    fn raw(&self, field: &'static str) -> Result<Option<&'a str>, Refusal> {
        let mut found = self.0.iter().filter(|(name, _)| name == field);
        let first = found.next();
        if found.next().is_some() {
            return Err(Refusal::bad(field, "is given twice"));
        }
        Ok(first.map(|(_, raw)| *raw).filter(|raw| *raw != "null"))
    }

    /// A string, if the field is there.
    ///
    /// # Errors
    /// The field is not a string.
    pub fn text(&self, field: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
        match self.raw(field)? {
            None => Ok(None),
            Some(raw) => match text_of(raw) {
                Some(text) => Ok(Some(text)),
                None => Err(Refusal::bad(field, "must be a string")),
            },
        }
    }

    /// A string that `parse` accepts, if the field is there.
    ///
    /// # Errors
    /// The field is not a string, or `parse` says what is wrong with it.
    pub fn parsed<T, E: fmt::Display>(
        &self,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refusal> {
        self.text(field)?
            .map(|text| parse(&text).map_err(|error| Refusal::bad(field, error.to_string())))
            .transpose()
    }

    /// Like [`Fields::parsed`], for a field that must be there.
    ///
    /// # Errors
    /// As [`Fields::parsed`], and when the field is missing.
    pub fn required<T, E: fmt::Display>(
        &self,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Refusal> {
        self.parsed(field, parse)?.ok_or_else(|| Refusal::bad(field, "is missing"))
    }

    /// A whole number, or its text, if the field is there.
    ///
    /// # Errors
    /// It is neither, or does not fit.
    pub fn number<N: FromStr>(&self, field: &'static str) -> Result<Option<N>, Refusal> {
        let Some(raw) = self.raw(field)? else {
            return Ok(None);
        };
        let text = text_of(raw).unwrap_or(Cow::Borrowed(raw));
        text.parse().map(Some).map_err(|_| Refusal::bad(field, "must be a whole number"))
    }

    /// Whole seconds within bounds, if the field is there.
    ///
    /// # Errors
    /// It is no whole number, or out of bounds.
    pub fn seconds(
        &self,
        field: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<Duration>, Refusal> {
        match self.number::<u64>(field)? {
            None => Ok(None),
            Some(seconds) if (least..=most).contains(&seconds) => {
                Ok(Some(Duration::from_secs(seconds)))
            }
            Some(_) => Err(Refusal::bad(
                field,
                format!("must be a whole number of seconds from {least} to {most}"),
            )),
        }
    }

    /// `true` or `false`, or its text, if the field is there.
    ///
    /// # Errors
    /// It is neither.
    pub fn switch(&self, field: &'static str) -> Result<Option<bool>, Refusal> {
        match self.raw(field)? {
            None => Ok(None),
            Some("true" | "\"true\"") => Ok(Some(true)),
            Some("false" | "\"false\"") => Ok(Some(false)),
            Some(_) => Err(Refusal::bad(field, "must be true or false")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            fields.push((name, map.next_value::<&RawValue>()?.get()));
        }
        Ok(Fields(fields))
    }
}

/// A member's name, borrowed from the frame unless it has escapes.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Borrow)
    }
}

struct Borrow;

impl<'de> Visitor<'de> for Borrow {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field() {
        let fields = Fields::open(Some(r#"{"a":1,"b":"x","b":"y","c":null,"d":"30"}"#)).unwrap();
        assert_eq!(fields.text("a").unwrap_err().field.as_deref(), Some("a"));
        assert_eq!(fields.text("b").unwrap_err().field.as_deref(), Some("b"));
        assert_eq!(fields.text("c").unwrap(), None);
        assert_eq!(fields.number::<u64>("d").unwrap(), Some(30));
        let missing = fields.required("e", |text| Ok::<_, &str>(text.to_owned())).unwrap_err();
        assert_eq!((missing.kind, missing.field.as_deref()), (Kind::BadParams, Some("e")));
    }

    #[test]
    fn positional_parameters_are_refused() {
        let refusal = Fields::open(Some("[1,2]")).unwrap_err();
        assert_eq!((refusal.kind, refusal.field.as_deref()), (Kind::BadParams, Some("params")));
    }

    #[test]
    fn numbers_and_switches_are_taken_as_text_too() {
        let fields =
            Fields::open(Some(r#"{"n":30,"m":"31","x":1.5,"t":"true","f":false}"#)).unwrap();
        assert_eq!(fields.seconds("n", 1, 60).unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(fields.seconds("m", 1, 60).unwrap(), Some(Duration::from_secs(31)));
        assert!(fields.seconds("m", 1, 30).is_err());
        assert!(fields.seconds("x", 1, 60).is_err());
        assert_eq!(fields.switch("t").unwrap(), Some(true));
        assert_eq!(fields.switch("f").unwrap(), Some(false));
        assert!(fields.switch("n").is_err());
    }
}
