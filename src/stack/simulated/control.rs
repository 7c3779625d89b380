//! The control interface: JSON over HTTP to choose how phones behave, to place calls and to
//! make things go wrong.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /phones` | every phone, its calls and behaviour |
//! | `PATCH /phones/alice` `{"answer":486}` | changes what is named of a behaviour |
//! | `DELETE /phones/alice/behaviour` | back to a plain phone |
//! | `PUT /phones/alice/registered` `true` | registers it, or takes that away |
//! | `GET /calls` | every call the proxy or a phone knows of |
//! | `POST /calls` `{"from":"alice","to":"bob"}` | a phone calls; answers `{"callid"}` |
//! | `POST /calls/<Call-ID>/hang_up` `{"phone":"bob"}` | a phone hangs up, refuses or gives up |
//! | `POST /calls/<Call-ID>/reinvite` `{"phone":"bob","direction":"inactive"}` | a phone's own re-INVITE |
//! | `POST /calls/<Call-ID>/forge_transfer` `{"forger":"dave","target":"bob"}` | somebody else's INVITE with this call's `osid` |
//! | `GET /seen` | what phones saw since it was asked last; from the first time on it is noted |
//! | `GET /faults`, `PATCH /faults` `{"lose_events":{"next":3}}` | what goes wrong on the network |
//! | `POST /restart` `{"down_ms":500}` | the process restarts |
//!
//! Errors are `{"error": "..."}` with status 400 or 404. Only for loopback: there is no
//! authentication.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::phones::Behaviour;
use super::server::Ask;
use super::sip_text::Direction;
use super::witness::{Saw, Seen};
use super::world::World;

type Asks = mpsc::Sender<Ask>;

/// Serves the control interface; never ends by itself.
pub(super) async fn serve(listener: Option<TcpListener>, asks: Asks) {
    let Some(listener) = listener else { return std::future::pending().await };
    let routes = Router::new()
        .route("/phones", get(phones))
        .route("/phones/{name}", patch(behave))
        .route("/phones/{name}/behaviour", delete(behave_plainly))
        .route("/phones/{name}/registered", put(register))
        .route("/calls", get(calls).post(place))
        .route("/calls/{callid}/hang_up", post(hang_up))
        .route("/calls/{callid}/reinvite", post(reinvite))
        .route("/calls/{callid}/forge_transfer", post(forge))
        .route("/seen", get(seen))
        .route("/faults", get(faults).patch(change_faults))
        .route("/restart", post(restart))
        .with_state(asks);
    // Ends only if the listener breaks; then there is no control any more.
    let _ = axum::serve(listener, routes).await;
    std::future::pending().await
}

enum Refusal {
    Bad(String),
    Unknown(&'static str),
    Gone,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Refusal::Bad(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::Unknown(what) => (StatusCode::NOT_FOUND, format!("no such {what}")),
            Refusal::Gone => (StatusCode::SERVICE_UNAVAILABLE, "shutting down".to_owned()),
        };
        (status, Json(json!({"error": text}))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// Does something with the world at the present time.
async fn with<R: Send + 'static>(
    asks: &Asks,
    change: impl FnOnce(&mut World, Duration) -> R + Send + 'static,
) -> Result<R, Refusal> {
    let (tell, told) = oneshot::channel();
    let ask = Ask::Do(Box::new(move |world, now| {
        let _ = tell.send(change(world, now));
    }));
    asks.send(ask).await.map_err(|_| Refusal::Gone)?;
    told.await.map_err(|_| Refusal::Gone)
}

fn read<T: DeserializeOwned>(body: Value) -> Result<T, Refusal> {
    serde_json::from_value(body).map_err(|e| Refusal::Bad(e.to_string()))
}

/// `old` with the members of `change` put in its place, objects member by member.
fn merged<T: Serialize + DeserializeOwned>(old: &T, change: Value) -> Result<T, Refusal> {
    fn merge(old: &mut Value, change: Value) {
        match (old, change) {
            (Value::Object(old), Value::Object(change)) => {
                for (name, value) in change {
                    merge(old.entry(name).or_insert(Value::Null), value);
                }
            }
            (old, change) => *old = change,
        }
    }
    let mut value = serde_json::to_value(old).map_err(|e| Refusal::Bad(e.to_string()))?;
    merge(&mut value, change);
    read(value)
}

fn shown<T: Serialize>(value: &T) -> Answer {
    serde_json::to_value(value).map(Json).map_err(|e| Refusal::Bad(e.to_string()))
}

async fn phones(State(asks): State<Asks>) -> Answer {
    shown(&with(&asks, |world, _| world.phones()).await?)
}

async fn calls(State(asks): State<Asks>) -> Answer {
    shown(&with(&asks, |world, _| world.calls()).await?)
}

async fn seen(State(asks): State<Asks>) -> Answer {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (now, seen) = with(&asks, |world, now| {
        world.note_what_phones_see();
        (now, world.take_seen())
    })
    .await?;
    let shown = seen.into_iter().map(|Saw { at, call, what }| {
        let mut shown = match what {
            Seen::Invite { phone, from, asked, by_proxy } => json!({
                "what": "invite", "phone": phone, "from": from, "asked": asked, "by_proxy": by_proxy,
            }),
            Seen::Refer { phone, to } => json!({"what": "refer", "phone": phone, "to": to}),
            Seen::Up => json!({"what": "up"}),
            Seen::EndedByProxy => json!({"what": "ended_by_proxy"}),
            Seen::EndedByPhone => json!({"what": "ended_by_phone"}),
        };
        if let Some(members) = shown.as_object_mut() {
            members.insert("call".to_owned(), call.into());
            members.insert("at_ms".to_owned(), milliseconds(at).into());
        }
        shown
    });
    let shown: Vec<Value> = shown.collect();
    Ok(Json(json!({"now_ms": milliseconds(now), "seen": shown})))
}

async fn behave(
    State(asks): State<Asks>,
    Path(name): Path<String>,
    Json(change): Json<Value>,
) -> Answer {
    let phone = name.clone();
    let old = with(&asks, move |world, _| world.behaviour(&phone).cloned()).await?;
    let new = merged(&old.ok_or(Refusal::Unknown("phone"))?, change)?;
    set_behaviour(&asks, name, new).await
}

async fn behave_plainly(State(asks): State<Asks>, Path(name): Path<String>) -> Answer {
    set_behaviour(&asks, name, Behaviour::default()).await
}

async fn set_behaviour(asks: &Asks, name: String, behaviour: Behaviour) -> Answer {
    let shown_behaviour = shown(&behaviour);
    match with(asks, move |world, _| world.set_behaviour(&name, behaviour)).await? {
        true => shown_behaviour,
        false => Err(Refusal::Unknown("phone")),
    }
}

async fn register(
    State(asks): State<Asks>,
    Path(name): Path<String>,
    Json(registered): Json<bool>,
) -> Answer {
    match with(&asks, move |world, now| world.register(now, &name, registered)).await? {
        true => Ok(Json(json!({"registered": registered}))),
        false => Err(Refusal::Unknown("phone")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    from: String,
    to: String,
    callid: Option<String>,
}

async fn place(State(asks): State<Asks>, Json(body): Json<Value>) -> Answer {
    let Place { from, to, callid } = read(body)?;
    let placed =
        with(&asks, move |world, now| world.place_call_as(now, &from, &to, callid.as_deref()));
    match placed.await? {
        Some(callid) => Ok(Json(json!({"callid": callid}))),
        None => Err(Refusal::Unknown("phone")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HangUp {
    phone: String,
}

async fn hang_up(
    State(asks): State<Asks>,
    Path(callid): Path<String>,
    Json(body): Json<Value>,
) -> Answer {
    let HangUp { phone } = read(body)?;
    match with(&asks, move |world, now| world.hang_up(now, &phone, &callid)).await? {
        true => Ok(Json(json!({}))),
        false => Err(Refusal::Unknown("call of this phone")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReInvite {
    phone: String,
    direction: Direction,
}

async fn reinvite(
    State(asks): State<Asks>,
    Path(callid): Path<String>,
    Json(body): Json<Value>,
) -> Answer {
    let ReInvite { phone, direction } = read(body)?;
    let sent =
        with(&asks, move |world, now| world.phone_reinvites(now, &phone, &callid, direction));
    match sent.await? {
        true => Ok(Json(json!({}))),
        false => Err(Refusal::Unknown("call of this phone")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forge {
    forger: String,
    target: String,
}

async fn forge(
    State(asks): State<Asks>,
    Path(callid): Path<String>,
    Json(body): Json<Value>,
) -> Answer {
    let Forge { forger, target } = read(body)?;
    let forged =
        with(&asks, move |world, now| world.forge_transfer(now, &forger, &callid, &target));
    match forged.await? {
        Some(callid) => Ok(Json(json!({"callid": callid}))),
        None => Err(Refusal::Unknown("phone or dialog")),
    }
}

async fn faults(State(asks): State<Asks>) -> Answer {
    shown(&with(&asks, |world, _| world.faults().clone()).await?)
}

async fn change_faults(State(asks): State<Asks>, Json(change): Json<Value>) -> Answer {
    let old = with(&asks, |world, _| world.faults().clone()).await?;
    let new = merged(&old, change)?;
    let result = shown(&new);
    with(&asks, move |world, _| *world.faults() = new).await?;
    result
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    #[serde(default = "half_a_second")]
    down_ms: u64,
}

fn half_a_second() -> u64 {
    500
}

async fn restart(State(asks): State<Asks>, Json(body): Json<Value>) -> Answer {
    let Restart { down_ms } = read(body)?;
    with(&asks, move |world, now| world.restart(now, Some(Duration::from_millis(down_ms)))).await?;
    Ok(Json(json!({})))
}
