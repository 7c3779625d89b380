//! The phases of every command in which its process dies, and what must come of each.
//!
//! Of a process that dies the others see only what it had committed, what OpenSIPS shows, and what
//! phones go on doing. What is sent at most once (docs/architecture.md, "Safe or Once") is not repeated, so a
//! phase in which nobody can tell whether it was sent ends `unknown`: each such phase says why.

use super::mi::{Stop, Way};

/// Where a command is when its process dies.
#[derive(Debug, Clone, Copy)]
pub enum Point {
    /// The n-th request of this name was committed, and has not reached OpenSIPS.
    Before(&'static str, usize),
    /// OpenSIPS and the phones have done it, and nobody has heard of it.
    After(&'static str, usize),
    /// The client was told this, and whatever comes next is a phone's turn.
    Told(&'static str),
    /// The phone of the caller rings.
    CallerRings,
    /// The phone that was asked to call somebody has said yes, and has not dialled.
    Accepted,
}

impl Point {
    pub fn stop(self) -> Option<Stop> {
        let (way, method, nth) = match self {
            Self::Before(method, nth) => (Way::Request, method, nth),
            Self::After(method, nth) => (Way::Reply, method, nth),
            Self::Told(_) | Self::CallerRings | Self::Accepted => return None,
        };
        Some(Stop { way, method, nth })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Start,
    Blind,
    Attended,
    Hold,
    Unhold,
    End,
}

impl Command {
    pub fn method(self) -> &'static str {
        match self {
            Self::Start => "CallStart",
            Self::Blind => "CallBlindTransfer",
            Self::Attended => "CallAttendedTransfer",
            Self::Hold => "CallHold",
            Self::Unhold => "CallUnhold",
            Self::End => "CallEnd",
        }
    }
}

/// One phase of a command. The outcomes are those when the process that performs it dies there; the
/// command of one that lives is a success.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub command: Command,
    pub point: Point,
    pub stock: &'static str,
    pub reference: &'static str,
    /// Why it is no success.
    pub why: &'static str,
}

const SUCCESS: &str = "success";

const fn row(
    command: Command,
    point: Point,
    [stock, reference]: [&'static str; 2],
    why: &'static str,
) -> Row {
    Row { command, point, stock, reference, why }
}

/// A phase whose command comes to its end.
const fn well(command: Command, point: Point) -> Row {
    row(command, point, [SUCCESS, SUCCESS], "")
}

const LOOK: &str = "dlg_list_ctx";
const MARK: &str = "dlg_push_var";
const SEND: &str = "dlg_send_sequential";
const BYE: &str = "dlg_end_dlg";

use Command::{Attended, Blind, End, Hold, Start, Unhold};
use Point::{Accepted, After, Before, CallerRings, Told};

/// The INVITE of a start. The reference script's mark says that it was never sent, so it is sent now. A
/// stock script keeps nothing of an INVITE that is over: it may have rung and been refused.
const INVITE: Row = row(
    Start,
    Before("t_uac_dlg", 1),
    ["unknown reply_lost up no", SUCCESS],
    "an INVITE that is over leaves no trace at a stock script",
);

/// The REFER of a start, not sent. The reference script's mark on the call says so; a stock script shows a
/// REFER only by the call that comes of it.
const fn no_refer_of_start(point: Point) -> Row {
    row(
        Start,
        point,
        ["unknown reply_lost up unknown", "failed stack_unreachable up no"],
        "a REFER leaves no trace at a stock script until its phone dials",
    )
}

/// The same of a transfer.
const fn no_refer(command: Command, point: Point) -> Row {
    row(
        command,
        point,
        ["unknown reply_lost up yes", "not_started stack_unreachable up unknown"],
        "a REFER leaves no trace at a stock script until its phone dials",
    )
}

const OFFER: &str = "a stock script tells nothing of an offer that it has sent";

const DOUBT: &str = "unknown reply_lost up unknown";

/// The first offer of a hold or an unhold, not sent: the reference script's mark says so. (On a stock
/// script a call without the mark of a hold would say so too, before that is written; callplane does not
/// look for it.)
const fn no_offer(command: Command, point: Point) -> Row {
    row(command, point, [DOUBT, "not_started stack_unreachable up unknown"], OFFER)
}

/// The second one. The leg that took the first is put back.
const fn no_second_offer(command: Command, point: Point) -> Row {
    row(command, point, [DOUBT, "failed stack_unreachable up unknown"], OFFER)
}

/// The offer is out, and what the phone said to it stood in the reply only: OpenSIPS keeps the answer to
/// no offer of ours, so nobody knows whether the phone took it.
const fn no_answer(command: Command, point: Point) -> Row {
    row(command, point, [DOUBT, DOUBT], "a phone's answer to an offer stands in its reply only")
}

pub const ROWS: [Row; 45] = [
    INVITE,
    well(Start, CallerRings),
    well(Start, After("t_uac_dlg", 1)),
    no_refer_of_start(Before(LOOK, 1)),
    no_refer_of_start(After(LOOK, 1)),
    no_refer_of_start(Before(SEND, 1)),
    well(Start, After(SEND, 1)),
    well(Start, Accepted),
    well(Start, Told("TransferPending")),
    well(Start, Before(BYE, 1)),
    well(Start, After(BYE, 1)),
    no_refer(Blind, Before(LOOK, 1)),
    no_refer(Blind, After(LOOK, 1)),
    no_refer(Blind, Before(SEND, 1)),
    well(Blind, After(SEND, 1)),
    well(Blind, Accepted),
    well(Blind, Told("TransferPending")),
    well(Blind, Before(BYE, 1)),
    well(Blind, After(BYE, 1)),
    no_refer(Attended, Before(LOOK, 1)),
    no_refer(Attended, Before(LOOK, 2)),
    no_refer(Attended, Before(SEND, 1)),
    well(Attended, After(SEND, 1)),
    well(Attended, Accepted),
    well(Attended, Told("TransferPending")),
    well(Attended, Before(BYE, 1)),
    well(Attended, After(BYE, 1)),
    no_offer(Hold, Before(LOOK, 1)),
    no_offer(Hold, Before(MARK, 1)),
    no_offer(Hold, After(MARK, 1)),
    no_offer(Hold, Before(SEND, 1)),
    no_answer(Hold, After(SEND, 1)),
    no_second_offer(Hold, Before(LOOK, 2)),
    no_second_offer(Hold, Before(SEND, 2)),
    no_answer(Hold, After(SEND, 2)),
    no_offer(Unhold, Before(LOOK, 1)),
    no_offer(Unhold, Before(MARK, 1)),
    no_offer(Unhold, After(MARK, 1)),
    no_offer(Unhold, Before(SEND, 1)),
    no_answer(Unhold, After(SEND, 1)),
    no_second_offer(Unhold, Before(LOOK, 2)),
    no_second_offer(Unhold, Before(SEND, 2)),
    no_answer(Unhold, After(SEND, 2)),
    well(End, Before(BYE, 1)),
    well(End, After(BYE, 1)),
];
