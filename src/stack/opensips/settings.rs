//! What the connector is told by the configuration about one stack.

use std::time::Duration;

use crate::core::ids::StackId;
use crate::core::plan::{HoldBy, ReferBy};
use crate::core::script::{CallopsMode, Grade};

/// One OpenSIPS.
#[derive(Debug, Clone)]
pub struct StackSettings {
    /// Its name in the configuration.
    pub id: StackId,
    /// `host:port` of the Management Interface over UDP (`mi_datagram`).
    pub mi: String,
    /// The Management Interface over HTTP (`mi_http`), for lists that do not fit a datagram.
    pub mi_http: Option<String>,
    /// Where its events come in.
    pub events: EventSettings,
    /// Where it sends INVITEs of ours: `sip:host:port`, usually itself. `None`: where the caller's
    /// address points. The reference script tells its own.
    pub next_hop: Option<String>,
    /// What its script can do.
    pub grade: Grade,
    /// How callops finds the call that an INVITE was referred from.
    pub callops: CallopsMode,
    /// Who sends a REFER.
    pub refer: ReferBy,
    /// Who makes a hold.
    pub hold: HoldBy,
    /// Whether dialogs survive its restart (`db_mode` 1 of the dialog module).
    pub persists_dialogs: bool,
    /// `fr_timeout`, if somebody wrote it; the reference script tells its own.
    pub fr_timeout: Option<Duration>,
    /// `fr_inv_timeout`, if somebody wrote it; the reference script tells its own.
    pub fr_inv_timeout: Option<Duration>,
    /// How long a phone may ring where a command does not say.
    pub ring_timeout: Duration,
    /// The session description offered to a caller's phone. `None`: [`SETUP_SDP`].
    pub setup_sdp: Option<String>,
    /// How long a synchronous request may take to be answered.
    pub reply: Duration,
    /// Most requests under way at a time that have not been taken from the stack's socket yet.
    pub in_flight: usize,
    /// So many unanswered requests in a row open the breaker.
    pub breaker_failures: u32,
    /// How long the breaker stays open before one request is tried.
    pub breaker_open: Duration,
}

/// Where a stack's events come in.
#[derive(Debug, Clone)]
pub struct EventSettings {
    /// How they come.
    pub transport: EventTransport,
    /// `host:port` to listen on. `None`: the address from which the stack is reached, any port.
    pub listen: Option<String>,
    /// `host:port` that the stack is told to send to, if it is another one.
    pub advertise: Option<String>,
    /// How long a subscription lasts; refreshed at a third of it.
    pub expiry: Duration,
    /// The receive buffer asked for on a UDP socket, in bytes.
    pub receive_buffer: usize,
    /// How often it is asked how long it has been up: a restart is noticed that fast.
    pub check: Duration,
}

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTransport {
    /// `event_datagram`: one event per datagram.
    Udp,
    /// `event_stream`: JSON objects back to back.
    Tcp,
}

/// What a caller's phone is offered when nothing else is configured: the codecs that every phone
/// has, no media yet. Never nothing: OpenSIPS would acknowledge without an answer (fact
/// F21).
pub const SETUP_SDP: &str = "v=0\r\n\
    o=callplane 1 1 IN IP4 0.0.0.0\r\n\
    s=-\r\n\
    c=IN IP4 0.0.0.0\r\n\
    t=0 0\r\n\
    m=audio 9 RTP/AVP 0 8 101\r\n\
    a=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-15\r\n\
    a=inactive\r\n";

impl StackSettings {
    /// A stack with the defaults of the configuration.
    #[must_use]
    pub fn new(id: StackId, mi: impl Into<String>) -> Self {
        Self {
            id,
            mi: mi.into(),
            mi_http: None,
            events: EventSettings::default(),
            next_hop: None,
            grade: Grade::Auto,
            callops: CallopsMode::Param,
            refer: ReferBy::Sequential,
            hold: HoldBy::ReInvite,
            persists_dialogs: false,
            fr_timeout: None,
            fr_inv_timeout: None,
            ring_timeout: Duration::from_secs(45),
            setup_sdp: None,
            reply: Duration::from_secs(1),
            in_flight: 256,
            breaker_failures: 5,
            breaker_open: Duration::from_secs(2),
        }
    }
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            transport: EventTransport::Udp,
            listen: None,
            advertise: None,
            expiry: Duration::from_secs(60),
            receive_buffer: 8 << 20,
            check: Duration::from_secs(2),
        }
    }
}
