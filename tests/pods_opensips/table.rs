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

pub const ROWS: [Row; 45] = [
    well(Start, Before("t_uac_dlg", 1)),
    well(Start, CallerRings),
    well(Start, After("t_uac_dlg", 1)),
    well(Start, Before(LOOK, 1)),
    well(Start, After(LOOK, 1)),
    well(Start, Before(SEND, 1)),
    well(Start, After(SEND, 1)),
    well(Start, Accepted),
    well(Start, Told("TransferPending")),
    well(Start, Before(BYE, 1)),
    well(Start, After(BYE, 1)),
    well(Blind, Before(LOOK, 1)),
    well(Blind, After(LOOK, 1)),
    well(Blind, Before(SEND, 1)),
    well(Blind, After(SEND, 1)),
    well(Blind, Accepted),
    well(Blind, Told("TransferPending")),
    well(Blind, Before(BYE, 1)),
    well(Blind, After(BYE, 1)),
    well(Attended, Before(LOOK, 1)),
    well(Attended, Before(LOOK, 2)),
    well(Attended, Before(SEND, 1)),
    well(Attended, After(SEND, 1)),
    well(Attended, Accepted),
    well(Attended, Told("TransferPending")),
    well(Attended, Before(BYE, 1)),
    well(Attended, After(BYE, 1)),
    well(Hold, Before(LOOK, 1)),
    well(Hold, Before(MARK, 1)),
    well(Hold, After(MARK, 1)),
    well(Hold, Before(SEND, 1)),
    well(Hold, After(SEND, 1)),
    well(Hold, Before(LOOK, 2)),
    well(Hold, Before(SEND, 2)),
    well(Hold, After(SEND, 2)),
    well(Unhold, Before(LOOK, 1)),
    well(Unhold, Before(MARK, 1)),
    well(Unhold, After(MARK, 1)),
    well(Unhold, Before(SEND, 1)),
    well(Unhold, After(SEND, 1)),
    well(Unhold, Before(LOOK, 2)),
    well(Unhold, Before(SEND, 2)),
    well(Unhold, After(SEND, 2)),
    well(End, Before(BYE, 1)),
    well(End, After(BYE, 1)),
];
