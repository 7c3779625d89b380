//! The arguments of the program.

use std::num::NonZeroU8;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::pods::Shared;

use super::call::Place;
use super::exit::Exit;

/// A control plane for SIP calls.
#[derive(Debug, Parser)]
#[command(name = "callplane", version, about, after_help = Exit::table(), subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Serve clients: WebSocket and POST on `listen.address`.
    Serve(ConfigFile),
    /// Serve a simulated stack with phones, and the console, on this machine.
    Demo(Demo),
    /// Start, hold, transfer or end a call through a running server.
    Call(Call),
    /// Run one command straight at a stack, without a server.
    Run(Run),
    /// Be a simulated OpenSIPS: management interface, events, phones.
    SimulateOpensips(Simulate),
    /// Check a configuration: all problems with line and column.
    CheckConfig(CheckConfig),
    /// Print one page for a support ticket: machine, configuration, Redis, stacks, server.
    Doctor(Doctor),
    /// Ask the running server of a configuration whether it lives; for containers and probes.
    Healthcheck(Healthcheck),
    /// Have the running server of a configuration stop in order; for preStop hooks.
    Drain(DrainServer),
    /// Print the OpenRPC document of the protocol.
    Openrpc,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration; the old server's `call-api.yml` is taken too. Without it: defaults and
    /// `CALLPLANE_` variables.
    #[arg(long, value_name = "FILE", env = "CALLPLANE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// What `demo` takes.
#[derive(Debug, Args)]
pub struct Demo {
    /// The port of the console and the WebSocket, on 127.0.0.1; 0 for any free one.
    #[arg(long, default_value_t = 5059)]
    pub port: u16,
    /// How many servers, 1 to 9; several share a Redis (`redis-server` must be here).
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = pods)]
    pub pods: NonZeroU8,
    /// One of several servers: what it shares with the others.
    #[arg(long, hide = true)]
    pub shared: Option<Shared>,
}

fn pods(text: &str) -> Result<NonZeroU8, String> {
    let count = text.parse::<NonZeroU8>().ok().filter(|count| count.get() <= 9);
    count.ok_or_else(|| "1 to 9 servers fit a demo".to_owned())
}

/// What `simulate-opensips` takes.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The management interface over UDP.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub mi: String,
    /// The management interface over HTTP.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8888")]
    pub mi_http: String,
    /// The control interface: phones' behaviour, calls, faults.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8089")]
    pub control: String,
    /// Play a stack with the reference script instead of a stock one.
    #[arg(long)]
    pub reference: bool,
}

/// What `check-config` takes.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// Where the configuration is.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Also ask each stack: does its management interface answer, do its events arrive?
    #[arg(long)]
    pub live: bool,
    /// Print the documented defaults instead.
    #[arg(long, conflicts_with_all = ["live", "config"])]
    pub default: bool,
}

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where the configuration is; its Redis, its stacks and its `admin.listen` are asked.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `healthcheck` takes.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// Where the configuration is; `admin.listen` is asked.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Ask whether it takes clients (`/readyz`) in place of whether it lives (`/livez`).
    #[arg(long)]
    pub ready: bool,
}

/// What `drain` takes.
#[derive(Debug, Args)]
pub struct DrainServer {
    /// Where the configuration is; `admin.control` is told.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Wait until the server is gone, at most `drain.delay` + `drain.timeout` + 2 s.
    #[arg(long)]
    pub wait: bool,
}

/// What `call` takes.
#[derive(Debug, Args)]
pub struct Call {
    /// The server.
    #[arg(
        long,
        value_name = "URL",
        env = "CALLPLANE_SERVER",
        default_value = "ws://127.0.0.1:5059/call-api",
        global = true
    )]
    pub server: String,
    /// How to ask, and how to tell.
    #[command(flatten)]
    pub asking: Asking,
    /// What to do.
    #[command(subcommand)]
    pub command: CallCommand,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub struct Run {
    /// Where the configuration is; its `stacks` count, its `listen` and `admin` do not.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How to ask, and how to tell.
    #[command(flatten)]
    pub asking: Asking,
    /// What to do.
    #[command(subcommand)]
    pub command: CallCommand,
}

/// How a command is asked for, and how its events are told.
#[derive(Debug, Args)]
pub struct Asking {
    /// Print each message of the server as one line of JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// The id of the command. Repeated in its session (`--session`) it is the same command: nothing
    /// is done twice, and what became of it is told.
    #[arg(long, value_name = "ID", global = true)]
    pub cmd_id: Option<String>,
    /// The session to go on with, as `Started` tells it: `EPOCH/SESSION`.
    #[arg(long, value_name = "EPOCH/SESSION", global = true, requires = "cmd_id")]
    pub session: Option<Place>,
    /// A reference of your own, echoed in every event.
    #[arg(long, value_name = "TEXT", global = true)]
    pub external_id: Option<String>,
    /// The stack to use, by its configured name.
    #[arg(long, value_name = "NAME", global = true)]
    pub stack: Option<String>,
}

/// One party of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Party {
    /// Who sent the INVITE.
    Caller,
    /// Who answered it.
    Callee,
}

/// A command on calls.
#[derive(Debug, Subcommand)]
pub enum CallCommand {
    /// Ring CALLER's phone, then have it call CALLEE.
    Start {
        /// Who is rung first, like sip:alice@example.org.
        caller: String,
        /// Who is called then.
        callee: String,
        /// How long a phone may ring, 1 to 60 seconds.
        #[arg(long, value_name = "SECONDS")]
        ring_timeout: Option<u64>,
        /// What the caller's phone shows.
        #[arg(long, value_name = "TEXT")]
        display: Option<String>,
        /// Ask the caller's phone to answer by itself.
        #[arg(long)]
        auto_answer: bool,
        /// Also tell when the caller's phone rings.
        #[arg(long)]
        ringing: bool,
    },
    /// Put both parties of a call on hold.
    Hold {
        /// The call's Call-ID.
        callid: String,
    },
    /// Take both parties of a held call back.
    Unhold {
        /// The call's Call-ID.
        callid: String,
    },
    /// Send one party of a call elsewhere (blind transfer).
    Transfer {
        /// The call's Call-ID.
        callid: String,
        /// The party that is sent.
        leg: Party,
        /// Where to, like sip:carol@example.org.
        destination: String,
    },
    /// Join the far ends of two calls (attended transfer).
    Attended {
        /// The Call-ID of the call whose party is sent.
        callid_a: String,
        /// That party.
        leg_a: Party,
        /// The Call-ID of the call that is replaced.
        callid_b: String,
        /// Its party that stays.
        leg_b: Party,
    },
    /// End a call.
    End {
        /// The call's Call-ID.
        callid: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together_and_help_shows_the_exit_codes() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(help.contains(exit.meaning()), "{help}");
        }
    }
}
