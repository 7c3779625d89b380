//! The Management Interface: which commands there are, under which names, with which
//! parameters, and the short ones themselves.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::calls::EndedBy;
use super::config::Version;
use super::dialogs::{Call, CallKey, Dialog, State};
use super::events;
use super::hold::Action;
use super::time::asctime;
use super::uac::record_name;
use super::world::World;
use crate::stack::mi::{MiAnswer, MiParams, MiRequest};

/// The way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A UDP datagram: replies above 65,457 bytes do not fit.
    Datagram,
    /// An HTTP request.
    Http,
    /// A call in this process.
    Process,
}

/// Who asked, and where the answer goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Asker {
    /// A number of the adapter's choice.
    pub ticket: u64,
    /// How the request came.
    pub channel: Channel,
    /// The id to echo.
    pub id: Value,
    /// False for a notification: it is executed, but never answered.
    pub wants_answer: bool,
}

impl Asker {
    /// Someone in the same process.
    pub fn process(ticket: u64) -> Asker {
        Asker { ticket, channel: Channel::Process, id: Value::Null, wants_answer: true }
    }
}

/// The commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Uptime,
    Version,
    Which,
    GetStatistics,
    UacDialog,
    UacCancel,
    List,
    ListContext,
    End,
    PushVar,
    SendSequential,
    CallTransfer,
    CallHold,
    CallUnhold,
    Subscribe,
    Subscribers,
    Events,
    Raise,
    CacheStore,
    CacheFetch,
    CacheRemove,
    ShowContact,
    DumpContacts,
}

/// Old name, 4.0's module and name, command.
const COMMANDS: [(&str, &str, &str, Command); 23] = [
    ("uptime", "core", "uptime", Command::Uptime),
    ("version", "core", "version", Command::Version),
    ("which", "core", "which", Command::Which),
    ("get_statistics", "statistics", "get", Command::GetStatistics),
    ("t_uac_dlg", "tm", "uac_dlg", Command::UacDialog),
    ("t_uac_cancel", "tm", "uac_cancel", Command::UacCancel),
    ("dlg_list", "dialog", "list", Command::List),
    ("dlg_list_ctx", "dialog", "list_ctx", Command::ListContext),
    ("dlg_end_dlg", "dialog", "end_dlg", Command::End),
    ("dlg_push_var", "dialog", "push_var", Command::PushVar),
    ("dlg_send_sequential", "dialog", "send_sequential", Command::SendSequential),
    ("call_transfer", "callops", "transfer", Command::CallTransfer),
    ("call_hold", "callops", "hold", Command::CallHold),
    ("call_unhold", "callops", "unhold", Command::CallUnhold),
    ("event_subscribe", "evi", "subscribe", Command::Subscribe),
    ("subscribers_list", "evi", "subscribers", Command::Subscribers),
    ("events_list", "evi", "list", Command::Events),
    ("raise_event", "evi", "raise", Command::Raise),
    ("cache_store", "cache", "store", Command::CacheStore),
    ("cache_fetch", "cache", "fetch", Command::CacheFetch),
    ("cache_remove", "cache", "remove", Command::CacheRemove),
    ("ul_show_contact", "usrloc", "show_contact", Command::ShowContact),
    ("ul_dump", "usrloc", "dump", Command::DumpContacts),
];

/// A form of a command's parameters: what must be there and what may be.
struct Form {
    required: &'static [&'static str],
    optional: &'static [&'static str],
}

const fn form(required: &'static [&'static str]) -> Form {
    Form { required, optional: &[] }
}

impl Command {
    fn find(method: &str, version: Version) -> Option<Command> {
        COMMANDS.iter().find_map(|(old, module, new, command)| {
            let known = *old == method
                || match version {
                    Version::V3_6 => false,
                    Version::V4_0 => {
                        *new == method
                            || method
                                .split_once(':')
                                .is_some_and(|(m, n)| m == *module && n == *new)
                    }
                };
            known.then_some(*command)
        })
    }

    fn forms(self, version: Version) -> &'static [Form] {
        const NONE: &[Form] = &[form(&[])];
        const LIST: &[Form] = &[
            form(&[]),
            form(&["callid"]),
            form(&["callid", "from_tag"]),
            form(&["index", "counter"]),
        ];
        const HOLD_3_6: &[Form] = &[form(&["callid"])];
        const HOLD_4_0: &[Form] = &[Form { required: &["callid"], optional: &["leg", "headers"] }];
        match self {
            Command::Uptime | Command::Events => NONE,
            Command::Version => const { &[form(&[]), form(&["revision"])] },
            Command::Which => const { &[form(&[]), form(&["command"])] },
            Command::GetStatistics => const { &[form(&["statistics"])] },
            Command::UacDialog => {
                const {
                    &[Form {
                        required: &["method", "ruri", "headers"],
                        optional: &["next_hop", "socket", "body"],
                    }]
                }
            }
            Command::UacCancel => const { &[form(&["callid", "cseq"])] },
            Command::List | Command::ListContext => LIST,
            Command::End => {
                const { &[Form { required: &["dialog_id"], optional: &["extra_hdrs"] }] }
            }
            Command::PushVar => const { &[form(&["dlg_val_name", "dlg_val_value", "DID"])] },
            Command::SendSequential => {
                const {
                    &[Form {
                        required: &["callid"],
                        optional: &[
                            "mode",
                            "method",
                            "body",
                            "headers",
                            "content_type",
                            "challenge",
                        ],
                    }]
                }
            }
            Command::CallTransfer => {
                const {
                    &[
                        form(&["callid", "leg", "destination"]),
                        Form {
                            required: &["callid", "leg", "transfer_callid", "transfer_leg"],
                            optional: &["destination"],
                        },
                        form(&[
                            "callid",
                            "leg",
                            "transfer_callid",
                            "transfer_fromtag",
                            "transfer_totag",
                            "transfer_destination",
                        ]),
                    ]
                }
            }
            Command::CallHold | Command::CallUnhold => match version {
                Version::V3_6 => HOLD_3_6,
                Version::V4_0 => HOLD_4_0,
            },
            Command::Subscribe => {
                const { &[Form { required: &["event", "socket"], optional: &["expire"] }] }
            }
            Command::Subscribers => {
                const { &[form(&[]), form(&["event"]), form(&["event", "socket"])] }
            }
            Command::Raise => const { &[Form { required: &["event"], optional: &["params"] }] },
            Command::CacheStore => {
                const { &[Form { required: &["system", "attr", "value"], optional: &["expire"] }] }
            }
            Command::CacheFetch | Command::CacheRemove => const { &[form(&["system", "attr"])] },
            Command::ShowContact => const { &[form(&["table_name", "aor"])] },
            Command::DumpContacts => const { &[form(&[]), form(&["brief"])] },
        }
    }

    fn named_only(self) -> bool {
        matches!(
            self,
            Command::List | Command::ListContext | Command::UacDialog | Command::SendSequential
        )
    }
}

fn invalid_params(data: &str) -> MiAnswer {
    MiAnswer::Error { code: -32602, message: "Invalid params".into(), data: Some(data.into()) }
}

/// A request's parameters by name.
pub(super) enum Params<'a> {
    Named(&'a [(Cow<'static, str>, Value)]),
    Positional(Vec<(&'static str, &'a Value)>),
}

impl<'a> Params<'a> {
    /// Checks them against the command's forms, as OpenSIPS does: first the number, then the
    /// names.
    fn check(
        command: Command,
        version: Version,
        params: &'a MiParams,
    ) -> Result<Params<'a>, MiAnswer> {
        let wrong_number = || invalid_params("Too few or too many parameters");
        let forms = command.forms(version);
        let counts = |f: &Form, n: usize| {
            (f.required.len()..=f.required.len() + f.optional.len()).contains(&n)
        };
        match params {
            MiParams::Positional(list) if !list.is_empty() => {
                if command.named_only() {
                    return Err(invalid_params("Command only supports named parameters"));
                }
                let form = forms.iter().find(|f| counts(f, list.len())).ok_or_else(wrong_number)?;
                let names = form.required.iter().chain(form.optional).copied();
                Ok(Params::Positional(names.zip(list).collect()))
            }
            MiParams::None | MiParams::Positional(_) => {
                let none = Params::Named(&[]);
                if forms.iter().any(|f| f.required.is_empty()) {
                    Ok(none)
                } else {
                    Err(wrong_number())
                }
            }
            MiParams::Named(members) => {
                let fitting: Vec<&Form> =
                    forms.iter().filter(|f| counts(f, members.len())).collect();
                if fitting.is_empty() {
                    return Err(wrong_number());
                }
                let has = |name: &&str| members.iter().any(|(n, _)| n == name);
                let known =
                    |f: &Form, name: &str| f.required.contains(&name) || f.optional.contains(&name);
                let matches = fitting.iter().any(|f| {
                    f.required.iter().all(has) && members.iter().all(|(n, _)| known(f, n))
                });
                if matches {
                    Ok(Params::Named(members))
                } else {
                    Err(invalid_params("Named parameters do not match"))
                }
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        match self {
            Params::Named(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            Params::Positional(list) => list.iter().find(|(n, _)| *n == name).map(|(_, v)| *v),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn bad_type(&self, name: &str) -> MiAnswer {
        invalid_params(&format!("Bad type for parameter '{name}'"))
    }

    /// A text; numbers are taken as texts.
    pub(super) fn text(&self, name: &str) -> Result<Cow<'a, str>, MiAnswer> {
        self.optional_text(name)?.ok_or_else(|| self.bad_type(name))
    }

    pub(super) fn optional_text(&self, name: &str) -> Result<Option<Cow<'a, str>>, MiAnswer> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Value::Number(number)) => Ok(Some(Cow::Owned(number.to_string()))),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                Err(self.bad_type(name))
            }
        }
    }

    /// A whole number; texts are taken as numbers.
    fn optional_number(&self, name: &str) -> Result<Option<i64>, MiAnswer> {
        let Some(text) = self.optional_text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.bad_type(name))
    }
}

impl World {
    /// Takes a request at `now`. Its answer, now or later, is an [`super::Output::Answer`] for
    /// `asker`; there is none if the request or the answer gets lost.
    pub fn request(&mut self, now: Duration, asker: Asker, request: &MiRequest) {
        self.advance(now);
        if !self.loses_request() {
            self.execute(asker, request);
        }
    }

    pub(super) fn execute(&mut self, asker: Asker, request: &MiRequest) {
        let version = self.config.version;
        let Some(command) = Command::find(&request.method, version) else {
            return self.answer(asker, MiAnswer::error(-32601, "Method not found"));
        };
        let params = match Params::check(command, version, &request.params) {
            Ok(params) => params,
            Err(error) => return self.answer(asker, error),
        };
        let answer = match command {
            // These answer by themselves, some of them much later.
            Command::UacDialog => return self.uac_dialog(asker, &params),
            Command::SendSequential => return self.send_sequential(asker, &params),
            Command::CallTransfer => return self.call_transfer(asker, &params),
            Command::CallHold => return self.call_hold(asker, &params, Action::Hold),
            Command::CallUnhold => return self.call_hold(asker, &params, Action::Unhold),
            Command::Uptime => Ok(self.uptime()),
            Command::Version => Ok(MiAnswer::Result(json!({"Server": version.server()}))),
            Command::Which => Ok(self.which(&params)),
            Command::GetStatistics => Ok(self.statistics()),
            Command::UacCancel => self.uac_cancel(&params),
            Command::List => self.list(&params, false),
            Command::ListContext => self.list(&params, true),
            Command::End => self.end(&params),
            Command::PushVar => self.push_var(&params),
            Command::Subscribe => self.subscribe(&params),
            Command::Subscribers => self.subscribers(&params),
            Command::Events => Ok(self.subscriptions.events()),
            Command::Raise => self.raise_by_mi(&params),
            Command::CacheStore => self.cache_store(&params),
            Command::CacheFetch => self.cache_fetch(&params),
            Command::CacheRemove => self.cache_remove(&params),
            Command::ShowContact => self.show_contact(&params),
            Command::DumpContacts => Ok(self.dump_contacts()),
        };
        self.answer(asker, answer.unwrap_or_else(|error| error));
    }

    fn uptime(&self) -> MiAnswer {
        let since = self.config.unix_epoch + self.since.as_secs();
        let now = self.unix();
        MiAnswer::Result(json!({
            "Now": asctime(now),
            "Up since": asctime(since),
            "Up time": format!("{} [sec]", now.saturating_sub(since)),
        }))
    }

    fn which(&self, params: &Params<'_>) -> MiAnswer {
        if params.has("command") {
            return MiAnswer::Result(json!([[]]));
        }
        let names = match self.config.version {
            Version::V3_6 => WHICH_3_6,
            Version::V4_0 => WHICH_4_0,
        };
        MiAnswer::Result(names.split(' ').collect())
    }

    fn statistics(&self) -> MiAnswer {
        let in_state = |low: State, high: State| {
            self.calls
                .iter()
                .filter_map(|(_, c)| c.state())
                .filter(|s| *s >= low && *s <= high)
                .count()
        };
        MiAnswer::Result(events::statistics(
            in_state(State::Answered, State::Confirmed),
            in_state(State::Early, State::Early),
        ))
    }

    /// `dlg_list` and `dlg_list_ctx`: all, by Call-ID, or a page.
    fn list(&self, params: &Params<'_>, context: bool) -> Result<MiAnswer, MiAnswer> {
        if let Some(callid) = params.optional_text("callid")? {
            let found = self.calls.by_callid(&callid).and_then(|k| self.calls.get(k));
            let listed = found.and_then(|c| Some(c.listed(c.dialog.as_ref()?, context)));
            return match listed {
                Some(dialog) => Ok(MiAnswer::Result(one("Dialog", dialog))),
                None => Err(MiAnswer::error(404, "No such dialog")),
            };
        }
        let all = self.calls.listed();
        let listed = |(_, call, dialog): &(CallKey, &Call, &Dialog)| call.listed(dialog, context);
        let Some(index) = params.optional_number("index")? else {
            return Ok(MiAnswer::Result(one("Dialogs", all.iter().map(listed).collect())));
        };
        let counter = params.optional_number("counter")?.unwrap_or_default();
        let (index, counter) =
            (usize::try_from(index).unwrap_or(0), usize::try_from(counter).unwrap_or(0));
        let page: Value = all.iter().skip(index).take(counter).map(listed).collect();
        Ok(MiAnswer::Result(json!({"count": all.len(), "Dialogs": page})))
    }

    /// `dlg_end_dlg`: BYE to both sides, or CANCEL; answered at once.
    fn end(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let id = params.text("dialog_id")?;
        let gone = || MiAnswer::error(404, "Requested Dialog not found");
        let key = self.calls.by_either(&id).ok_or_else(gone)?;
        match self.calls.get(key).and_then(Call::state).ok_or_else(gone)? {
            State::Unconfirmed | State::Early => self.cancel(key),
            State::Answered | State::Confirmed => self.end_call(key, EndedBy::Mi),
            State::Deleted => return Err(gone()),
        }
        Ok(MiAnswer::Result("OK".into()))
    }

    /// `dlg_push_var`: by dialog id or Call-ID; unknown ones are passed over in silence.
    fn push_var(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let name = params.text("dlg_val_name")?;
        let value = params.text("dlg_val_value")?;
        let Some(Value::Array(dialogs)) = params.get("DID") else {
            return Err(params.bad_type("DID"));
        };
        for dialog in dialogs.iter().filter_map(Value::as_str) {
            if let Some(key) = self.calls.by_either(dialog) {
                self.set_value(key, &name, Value::from(&*value));
            }
        }
        Ok(MiAnswer::Result("OK".into()))
    }

    fn subscribe(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let (event, socket) = (params.text("event")?, params.text("socket")?);
        let expire = match params.optional_number("expire")? {
            None => None,
            Some(n) => Some(u64::try_from(n).map_err(|_| invalid_params("Negative expire value"))?),
        };
        let now = self.unix();
        Ok(self.subscriptions.subscribe(&event, &socket, expire, now))
    }

    fn subscribers(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let (event, socket) = (params.optional_text("event")?, params.optional_text("socket")?);
        let now = self.unix();
        Ok(self.subscriptions.list(event.as_deref(), socket.as_deref(), now))
    }

    fn raise_by_mi(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let event = params.text("event")?;
        if !self.subscriptions.knows(&event) {
            return Err(MiAnswer::error(404, "Event not registered"));
        }
        let event = events::raised(&event, params.get("params"))?;
        self.raise(event);
        Ok(MiAnswer::Result("OK".into()))
    }

    /// `ul_show_contact`; 4.0 wants a domain in the address.
    fn show_contact(&self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        if params.text("table_name")? != "location" {
            return Err(MiAnswer::error(404, "Table not found"));
        }
        let aor = params.text("aor")?;
        match self.config.version {
            Version::V4_0 if !aor.contains('@') => {
                return Err(MiAnswer::error(400, "Domain missing in AOR"));
            }
            Version::V3_6 | Version::V4_0 => {}
        }
        self.phone_number(record_name(&aor))
            .and_then(|i| self.contacts_of(i))
            .map(MiAnswer::Result)
            .ok_or_else(|| MiAnswer::error(404, "AOR not found"))
    }

    fn dump_contacts(&self) -> MiAnswer {
        let list: Vec<Value> =
            (0..self.phones.len()).rev().filter_map(|i| self.contacts_of(i)).collect();
        MiAnswer::Result(json!({
            "Domains": [{"name": "location", "hash_size": 512, "AORs": list}]
        }))
    }

    fn contacts_of(&self, number: usize) -> Option<Value> {
        let phone = self.phones.get(number).filter(|p| p.registered)?;
        let age = self.unix().saturating_sub(phone.registered_at) % 3600;
        let aor = match self.config.version {
            Version::V3_6 => phone.name.clone(),
            Version::V4_0 => {
                let host = self.domain.split(':').next().unwrap_or_default();
                format!("{}@{host}", phone.name)
            }
        };
        Some(json!({
            "AOR": aor,
            "Contacts": [{
                "Contact": phone.contact,
                "ContactID": phone.contact_id.to_string(),
                "Expires": 3600 - age,
                "Q": "",
                "Callid": phone.register_call_id,
                "Cseq": 1,
                "User-agent": "n/a",
                "State": "CS_NEW",
                "Flags": 0,
                "Cflags": "",
                "Socket": format!("udp:{}", self.domain),
                "Methods": 4_294_967_295_u32,
            }],
        }))
    }
}

fn one(name: &str, value: Value) -> Value {
    Value::Object([(name.to_owned(), value)].into_iter().collect())
}

/// What `which` lists on 3.6 (recorded).
const WHICH_3_6: &str = "\
    get_statistics list_statistics reset_statistics reset_all_statistics uptime version pwd arg \
    which ps kill log_level xlog_level log_level_filter log_mute_state shm_check cache_store \
    cache_fetch cache_remove event_subscribe events_list subscribers_list raise_event \
    list_tcp_conns mem_pkg_dump mem_shm_dump mem_rpm_dump reload_routes sr_get_status \
    sr_list_status sr_list_reports sr_list_identifiers help list_blacklists check_blacklists \
    check_blacklist add_blacklist_rule del_blacklist_rule tcp_trace t_uac_dlg t_uac_cancel t_hash \
    t_reply ul_rm ul_rm_contact ul_dump ul_flush ul_add ul_show_contact ul_sync ul_cluster_sync \
    dlg_list dlg_list_ctx dlg_end_dlg dlg_db_sync dlg_restore_db dlg_cluster_sync profile_get_size \
    profile_list_dlgs profile_get_values list_all_profiles profile_end_dlgs dlg_push_var \
    dlg_send_sequential dlg_set_profile dlg_unset_profile call_transfer call_hold call_unhold \
    httpd_list_root_path";

/// What `which` lists on 4.0 (recorded): only new names.
const WHICH_4_0: &str = "\
    statistics:get statistics:list statistics:reset statistics:reset_all core:uptime core:version \
    core:pwd core:arg core:which core:ps core:kill core:log_level core:xlog_level \
    core:profiling_proc core:log_level_filter core:log_mute_state core:reload_routes core:help \
    tcp:list tcp:close mem:shm_check mem:pkg_dump mem:shm_dump mem:rpm_dump cache:store \
    cache:fetch cache:remove status_report:get status_report:status status_report:reports \
    status_report:identifiers evi:subscribe evi:list evi:subscribers evi:raise blacklists:list \
    blacklists:check_all blacklists:check blacklists:add_rule blacklists:del_rule tcp:trace \
    tm:uac_dlg tm:uac_cancel tm:hash tm:reply usrloc:rm usrloc:rm_contact usrloc:dump usrloc:flush \
    usrloc:add usrloc:show_contact usrloc:sync usrloc:cluster_sync dialog:list dialog:list_ctx \
    dialog:end_dlg dialog:db_sync dialog:restore_db dialog:cluster_sync dialog:profile_get_size \
    dialog:profile_list_dlgs dialog:profile_get_values dialog:list_all_profiles \
    dialog:profile_end_dlgs dialog:push_var dialog:send_sequential dialog:set_profile \
    dialog:unset_profile callops:transfer callops:hold callops:unhold httpd:list_root_path";
