//! How events are shown: a line for people, or the message as it came.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

use super::follow::Told;

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line for people.
    Lines,
    /// The server's message, one line of JSON.
    Json,
}

/// Shows `told`, `after` the command was asked for: events on `out`, the state of the connection
/// on `aside`.
///
/// # Errors
///
/// What `out` or `aside` says, such as a closed pipe.
pub fn show(
    form: Form,
    told: &Told,
    after: Duration,
    out: &mut impl Write,
    aside: &mut impl Write,
) -> io::Result<()> {
    let message = match told {
        Told::Resumed => return writeln!(aside, "connected again, nothing was missed"),
        Told::NotResumed(reason) => {
            let reason = printable(reason);
            return writeln!(aside, "connected again, but events were missed ({reason})");
        }
        Told::Started(message)
        | Told::Event(message)
        | Told::Refused(message)
        | Told::Cancelling(message) => message,
    };
    match form {
        Form::Json => writeln!(out, "{message}")?,
        Form::Lines => {
            let (word, rest) = match told {
                Told::Started(_) | Told::Event(_) => event(message),
                Told::Refused(_) => ("Refused".to_owned(), refusal(message)),
                Told::Cancelling(_) if message.get("error").is_some() => {
                    ("NotCancelled".to_owned(), refusal(message))
                }
                Told::Cancelling(_) => ("Cancelling".to_owned(), String::new()),
                Told::Resumed | Told::NotResumed(_) => return Ok(()),
            };
            let line = format!("{:>9.3}s  {word:<20} {rest}", after.as_secs_f64());
            writeln!(out, "{}", printable(line.trim_end()))?;
        }
    }
    out.flush()
}

/// An event's name, and what there is to say of it.
fn event(message: &Value) -> (String, String) {
    let body = message.get("params").or_else(|| message.get("result")).unwrap_or(&Value::Null);
    let name = body.get("event").and_then(Value::as_str).unwrap_or("?").to_owned();
    let mut parts = Vec::new();
    match body.get("data") {
        Some(Value::Object(data)) => parts.extend(data.iter().map(|(k, v)| pair(k, v))),
        Some(Value::String(text)) => parts.push(text.clone()),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) | None => {}
    }
    if name == "Started" {
        parts.extend(body.get("cmd_id").map(|id| pair("cmd_id", id)));
        if body.get("repeated").and_then(Value::as_bool) == Some(true) {
            parts.push("(known already)".to_owned());
        }
        let text = |name| body.get(name).and_then(Value::as_str);
        if let (Some(epoch), Some(session)) = (text("epoch"), text("session")) {
            parts.push(format!("session={epoch}/{session}"));
        }
        let deadline = body.get("deadline_ms").and_then(Value::as_u64);
        parts.extend(deadline.map(|ms| format!("ends within {} s", ms.div_ceil(1000))));
    }
    parts.extend(body.get("outcome").and_then(Value::as_str).map(str::to_owned));
    for word in ["up", "replaced", "may_still_ring", "already", "leg_left_up", "degraded"] {
        parts.extend(body.get(word).map(|value| pair(word, value)));
    }
    if let Some(error) = body.get("error") {
        parts.extend(error.get("code").and_then(Value::as_str).map(|code| format!("[{code}]")));
        parts.extend(error.get("up").map(|up| pair("up", up)));
    }
    (name, parts.join("  "))
}

fn refusal(message: &Value) -> String {
    let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
    let mut parts = vec![text("/error/message").unwrap_or("without a reason").to_owned()];
    if let Some(Value::Object(data)) = message.pointer("/error/data") {
        parts.extend(data.iter().map(|(k, v)| pair(k, v)));
    }
    parts.join("  ")
}

fn pair(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    }
}

/// Phones choose parts of what is shown (reason phrases); no control character reaches a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(form: Form, told: &Told) -> String {
        let mut out = Vec::new();
        show(form, told, Duration::from_millis(1204), &mut out, &mut Vec::new()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_for_people() {
        let started = json!({"id":1,"result":{"cmd_id":"c","event":"Started","deadline_ms":75500,"epoch":"e","session":"s"}});
        let answered = json!({"method":"CallStart","params":{"cmd_id":"c","event":"CallerAnswered","data":{"callee":"sip:b@x","caller":"sip:a@x"},"seq":1,"epoch":"e"}});
        let error = json!({"params":{"event":"Error","data":"callee: 486 Busy\u{1b}[31m Here","error":{"code":"callee_busy","message":"m","up":"no"}}});
        let ended = json!({"params":{"event":"Ended","outcome":"unknown","up":"yes"}});
        for (told, line) in [
            (
                Told::Started(started),
                "    1.204s  Started              cmd_id=c  session=e/s  ends within 76 s\n",
            ),
            (
                Told::Started(
                    json!({"id":1,"result":{"cmd_id":"c","degraded":true,"event":"Started","outcome":"success"}}),
                ),
                "    1.204s  Started              cmd_id=c  success  degraded=true\n",
            ),
            (
                Told::Event(answered),
                "    1.204s  CallerAnswered       callee=sip:b@x  caller=sip:a@x\n",
            ),
            (
                Told::Event(error),
                "    1.204s  Error                callee: 486 Busy\u{fffd}[31m Here  [callee_busy]  up=no\n",
            ),
            (Told::Event(ended), "    1.204s  Ended                unknown  up=yes\n"),
            (
                Told::Refused(
                    json!({"error":{"code":-32602,"message":"bad params","data":{"field":"caller"}}}),
                ),
                "    1.204s  Refused              bad params  field=caller\n",
            ),
        ] {
            assert_eq!(shown(Form::Lines, &told), line);
        }
    }

    #[test]
    fn json_is_the_message_on_one_line() {
        let message = json!({"params":{"event":"Ended","data":"a\nb"}});
        let line = shown(Form::Json, &Told::Event(message.clone()));
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), message);
    }
}
