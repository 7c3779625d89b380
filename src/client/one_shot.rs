//! `POST` of one frame: for back ends that hold no socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use futures_util::future::join_all;

use super::Client;
use super::commands::{Begun, Commands, Summary, Wanted};
use super::feed::{Attachment, Taken};
use super::session::NO_METHOD;
use crate::core::ids::{CommandId, Epoch, Scope, SessionId, TenantId};
use crate::core::notice::Notice;
use crate::core::record::{Begin, Entry, Key, Position};
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::frame::{self, Frame, Id, Item, Request};
use crate::rpc::method::{self, Asked, Call, Method};
use crate::rpc::wire::{self, Ending, Repeated, Standing, Started};

/// How long after a command's stated deadline its `Ended` is still waited for.
const PAST_DUE: Duration = Duration::from_secs(5);

/// Entries per page when the beginning of a repeated command is read.
const PAGE: usize = 256;

/// What the request line asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    /// Answer when commands have ended, not when they have started.
    pub(super) until_ended: bool,
    /// The session whose ids and sockets the commands belong to.
    pub(super) session: Option<SessionId>,
    /// The `traceparent` of the HTTP request, for commands that carry none of their own.
    pub(super) trace: Option<Arc<str>>,
}

/// The answer to a POST.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The JSON text; none when nothing is to be answered.
    pub(super) body: Option<BytesMut>,
}

/// Carries out one frame.
pub(super) async fn answer<C: Commands>(client: &Arc<Client<C>>, text: &str, wish: Wish) -> Reply {
    let mut body = BytesMut::new();
    match frame::parse(text, client.settings.batch) {
        Frame::Refused(refusal) => {
            client.metrics.refused_request(NO_METHOD, refusal.kind.row().word);
            wire::error(&mut body, Id::NULL, &refusal);
            Reply { status: refusal.kind.row().http, body: Some(body) }
        }
        Frame::One(item) => {
            let id = id_of(&item);
            match (id, carry_out(client, item, &wish).await) {
                (None, _) => Reply { status: 204, body: None },
                (Some(id), Ok(result)) => {
                    wire::result(&mut body, id, |out| out.put_slice(&result));
                    Reply { status: 200, body: Some(body) }
                }
                (Some(id), Err(refusal)) => {
                    wire::error(&mut body, id, &refusal);
                    Reply { status: refusal.kind.row().http, body: Some(body) }
                }
            }
        }
        Frame::Batch(items) => {
            let answers = join_all(items.into_iter().map(|item| {
                let wish = &wish;
                async move { (id_of(&item), carry_out(client, item, wish).await) }
            }))
            .await;
            for (id, answer) in answers {
                let Some(id) = id else { continue };
                body.put_u8(if body.is_empty() { b'[' } else { b',' });
                match answer {
                    Ok(result) => wire::result(&mut body, id, |out| out.put_slice(&result)),
                    Err(refusal) => wire::error(&mut body, id, &refusal),
                }
            }
            if body.is_empty() {
                return Reply { status: 204, body: None };
            }
            body.put_u8(b']');
            Reply { status: 200, body: Some(body) }
        }
    }
}

fn id_of<'a>(item: &Item<'a>) -> Option<Id<'a>> {
    match item {
        Ok(request) => request.id,
        Err(invalid) => Some(invalid.id),
    }
}

/// The result object of one request. A refusal is counted.
async fn carry_out<C: Commands>(
    client: &Arc<Client<C>>,
    item: Item<'_>,
    wish: &Wish,
) -> Result<BytesMut, Refusal> {
    let known = item.as_ref().ok().and_then(|request| Method::of(&request.method));
    let done = match item {
        Ok(request) => request_of(client, request, wish).await,
        Err(invalid) => Err(invalid.refusal),
    };
    if let Err(refusal) = &done {
        let method = known.map_or(NO_METHOD, Method::as_str);
        client.metrics.refused_request(method, refusal.kind.row().word);
    }
    done
}

async fn request_of<C: Commands>(
    client: &Arc<Client<C>>,
    request: Request<'_>,
    wish: &Wish,
) -> Result<BytesMut, Refusal> {
    let mut out = BytesMut::new();
    match method::parse(&request)? {
        Call::Command(asked) => return command(client, *asked, request.id, wish).await,
        Call::Echo { cmd_id, data } => {
            let command = cmd_id.unwrap_or_else(|| CommandId::derive((client.nonce)()));
            if !wish.until_ended {
                wire::started(&mut out, &started(&command));
                return Ok(out);
            }
            out.put_slice(b"{\"cmd_id\":");
            wire::string(&mut out, command.as_str());
            out.put_slice(b",\"event\":\"Ended\",\"outcome\":\"success\",\"events\":[");
            wire::echo_params(&mut out, &command, "Reply", data);
            out.put_slice(b"]}");
        }
        Call::CommandGet(id) => {
            let known = client.commands.get(key(wish, id.clone())).await?;
            let summary = known.ok_or_else(|| Refusal::new(Kind::UnknownCommand).of(id))?;
            wire::known(&mut out, &summary.known());
        }
        Call::CommandCancel(id) => {
            let known = client.commands.cancel(key(wish, id.clone())).await?;
            let summary = known.ok_or_else(|| Refusal::new(Kind::UnknownCommand).of(id))?;
            let Summary { id, ended, degraded, .. } = &summary;
            wire::cancelling(&mut out, id, ended.as_ref(), *degraded);
        }
        Call::Resume(_) => {
            return Err(
                Refusal::new(Kind::ResumeRefused).because("a one-shot request holds no stream")
            );
        }
        Call::Discover => {
            out.put_slice(crate::rpc::openrpc::DOCUMENT.trim_ascii().as_bytes());
        }
    }
    Ok(out)
}

fn key(wish: &Wish, id: CommandId) -> Key {
    let scope = wish.session.clone().map_or(Scope::OneShot, Scope::Session);
    Key { tenant: TenantId::default(), scope, id }
}

fn started(command: &CommandId) -> Started<'_> {
    Started {
        cmd_id: command,
        deadline_ms: None,
        external_id: None,
        standing: None,
        repeated: None,
    }
}

async fn command<C: Commands>(
    client: &Arc<Client<C>>,
    asked: Asked,
    id_of_request: Option<Id<'_>>,
    wish: &Wish,
) -> Result<BytesMut, Refusal> {
    if !client.intake().takes(asked.request.method()) {
        return Err(Refusal::new(Kind::Draining));
    }
    let digest = asked.digest();
    let Asked { cmd_id, request, external_id, stack, trace } = asked;
    let id = cmd_id.unwrap_or_else(|| CommandId::derive((client.nonce)()));
    let session = wish.session.clone().unwrap_or_else(|| SessionId::derive((client.nonce)()));
    let key = key(wish, id.clone());
    let attachment = client.feed.attach(&key.tenant, &session);
    let begin = Begin {
        key: key.clone(),
        session: session.clone(),
        request,
        digest,
        external_id,
        stack,
        trace: trace.or_else(|| wish.trace.clone()),
        asked_by: id_of_request.map(|id| id.as_json().into()),
    };
    match client.commands.begin(begin).await? {
        Begun::New => {
            let mut follow = Follow::new(attachment, id);
            if !wish.until_ended {
                follow.until(client, &key, PAST_DUE, is_started).await?;
                return Ok(follow.started(&session));
            }
            let told = follow.until(client, &key, PAST_DUE, is_ended).await?;
            Ok(follow.ended(&session, told))
        }
        Begun::Repeated(summary) => repeated(client, &key, summary, wish).await,
        Begun::Straight(ending) => {
            let mut out = BytesMut::new();
            let event = if wish.until_ended { "Ended" } else { "Started" };
            wire::straight(&mut out, &id, event, &ending);
            Ok(out)
        }
    }
}

async fn repeated<C: Commands>(
    client: &Arc<Client<C>>,
    key: &Key,
    summary: Summary,
    wish: &Wish,
) -> Result<BytesMut, Refusal> {
    if !wish.until_ended {
        let mut out = BytesMut::new();
        let Summary { first, session, deadline_ms, external_id, ended, .. } = &summary;
        let standing = Standing { session, epoch: &first.epoch, seq: first.seq };
        wire::started(
            &mut out,
            &Started {
                cmd_id: &summary.id,
                deadline_ms: Some(*deadline_ms),
                external_id: external_id.as_deref(),
                standing: Some(standing),
                repeated: Some(Repeated { replayed: None, ended: ended.as_ref() }),
            },
        );
        return Ok(out);
    }
    // First attach, then read: what is in neither has not happened yet.
    let attachment = client.feed.attach(&TenantId::default(), &summary.session);
    let mut follow = Follow::new(attachment, summary.id.clone());
    let session = summary.session.clone();
    follow.read_back(client, &summary).await;
    if let Some(ended) = summary.ended
        && !follow.entries.iter().any(|(_, entry)| is_ended(entry))
    {
        return Ok(follow.remembered(&session, &ended));
    }
    let told = follow.until(client, key, patience(summary.deadline_ms), is_ended).await?;
    Ok(follow.ended(&session, told))
}

/// How long the end of a command is waited for that said this in its `Started`.
fn patience(deadline_ms: u64) -> Duration {
    Duration::from_millis(deadline_ms).saturating_add(PAST_DUE)
}

fn is_started(entry: &Entry) -> bool {
    matches!(entry.notice, Notice::Started { .. })
}

fn is_ended(entry: &Entry) -> bool {
    matches!(entry.notice, Notice::Ended { .. })
}

/// One command's entries as they come.
struct Follow {
    attachment: Attachment,
    id: CommandId,
    entries: Vec<(Epoch, Arc<Entry>)>,
}

impl Follow {
    fn new(attachment: Attachment, id: CommandId) -> Self {
        Self { attachment, id, entries: Vec::new() }
    }

    fn take(&mut self, epoch: Epoch, entry: Arc<Entry>) {
        let known = |(other, had): &(Epoch, Arc<Entry>)| *other == epoch && had.seq >= entry.seq;
        if entry.key.id == self.id && !self.entries.iter().any(known) {
            self.entries.push((epoch, entry));
        }
    }

    /// Reads the entries that came before this request. Without them the end is told alone.
    async fn read_back<C: Commands>(&mut self, client: &Arc<Client<C>>, summary: &Summary) {
        let mut after = summary.first.seq.saturating_sub(1);
        loop {
            let wanted = Wanted {
                tenant: TenantId::default(),
                session: summary.session.clone(),
                after: Position { epoch: summary.first.epoch.clone(), seq: after },
                max: PAGE,
            };
            let Ok(page) = client.commands.read(wanted).await else { return };
            for entry in page.entries {
                self.take(summary.first.epoch.clone(), entry);
            }
            after = page.through;
            if !page.more || self.entries.last().is_some_and(|(_, entry)| is_ended(entry)) {
                return;
            }
        }
    }

    /// Waits for an entry, at most until the command's stated deadline and a little more; as long as
    /// its `Started` has not come, so long as `at_first`. Should it not have come by then, the store
    /// may know how the command ended.
    async fn until<C: Commands>(
        &mut self,
        client: &Arc<Client<C>>,
        key: &Key,
        at_first: Duration,
        wanted: fn(&Entry) -> bool,
    ) -> Result<Option<Ending>, Refusal> {
        let mut within = at_first;
        let begin = tokio::time::Instant::now();
        loop {
            if self.entries.iter().any(|(_, entry)| wanted(entry)) {
                return Ok(None);
            }
            if let Some(deadline) = self.entries.iter().find_map(|(_, entry)| match entry.notice {
                Notice::Started { deadline_ms } => Some(deadline_ms),
                Notice::Progress { .. } | Notice::Error(_) | Notice::Ended { .. } => None,
            }) {
                within = patience(deadline);
            }
            let taken = std::future::poll_fn(|cx| self.attachment.inbox().poll_take(cx));
            match tokio::time::timeout_at(begin + within, taken).await {
                Ok(Taken::Entry(epoch, entry)) => self.take(epoch, entry),
                Ok(Taken::Skipped(_)) => {
                    let known = client.commands.get(key.clone()).await?;
                    if let Some(ended) = known.and_then(|summary| summary.ended) {
                        return Ok(Some(ended));
                    }
                }
                Ok(Taken::Overflowed) | Err(_) => {
                    let known = client.commands.get(key.clone()).await?;
                    if let Some(ended) = known.and_then(|summary| summary.ended) {
                        return Ok(Some(ended));
                    }
                    tracing::warn!(command = %key.id, "a command's events did not come");
                    return Err(Refusal::new(Kind::Internal)
                        .because("the command's events can't be had; ask CommandGet")
                        .of(key.id.clone()));
                }
            }
        }
    }

    fn started(&self, session: &SessionId) -> BytesMut {
        let mut out = BytesMut::new();
        let Some((epoch, entry)) = self.entries.first() else { return out };
        let deadline_ms = match entry.notice {
            Notice::Started { deadline_ms } => Some(deadline_ms),
            Notice::Progress { .. } | Notice::Error(_) | Notice::Ended { .. } => None,
        };
        wire::started(
            &mut out,
            &Started {
                cmd_id: &entry.key.id,
                deadline_ms,
                external_id: entry.external_id.as_deref(),
                standing: Some(Standing { session, epoch, seq: entry.seq }),
                repeated: None,
            },
        );
        out
    }

    /// The result that tells the whole command; `known` is what the store says of its end.
    fn ended(&self, session: &SessionId, known: Option<Ending>) -> BytesMut {
        let failure = self.entries.iter().find_map(|(_, entry)| match &entry.notice {
            Notice::Error(failure) => Some(failure.clone()),
            Notice::Started { .. } | Notice::Progress { .. } | Notice::Ended { .. } => None,
        });
        let ending = self.entries.iter().find_map(|(_, entry)| match &entry.notice {
            Notice::Ended { outcome, remarks } => Some(Ending {
                outcome: *outcome,
                remarks: remarks.clone(),
                failure: failure.clone(),
            }),
            Notice::Started { .. } | Notice::Progress { .. } | Notice::Error(_) => None,
        });
        match known.or(ending) {
            Some(ending) => self.remembered(session, &ending),
            None => BytesMut::new(),
        }
    }

    fn remembered(&self, session: &SessionId, ending: &Ending) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_slice(b"{\"cmd_id\":");
        wire::string(&mut out, self.id.as_str());
        out.put_slice(b",\"event\":\"Ended\"");
        wire::ending(&mut out, ending);
        wire::member(&mut out, "events");
        out.put_u8(b'[');
        let between =
            self.entries.iter().filter(|(_, entry)| !is_started(entry) && !is_ended(entry));
        for (n, (epoch, entry)) in between.enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            wire::params(&mut out, epoch, entry);
        }
        out.put_u8(b']');
        if let Some((epoch, entry)) = self.entries.last() {
            wire::place(&mut out, Standing { session, epoch, seq: entry.seq });
        }
        out.put_u8(b'}');
        out
    }
}
