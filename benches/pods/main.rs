//! Several processes over one Redis.
//!
//!     cargo bench --bench pods              # all of it
//!     cargo bench --bench pods -- events    # a part: holds, spread, events, resume, homeless, memory
//!
//! Real processes (`callplane serve`), a `redis-server` that writes an append-only file, the simulated
//! stack over UDP, and the clients: all share this machine's cores, and nobody has one of its own. So
//! commands a second say what the machine gives; processor time for each command is the true measure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench ends by panicking where it can't go on"
)]

mod events;
mod holds;
#[path = "../load/in_process.rs"]
mod in_process;
#[path = "../load/mod.rs"]
mod load;
mod memory;
mod messages;
#[path = "../../tests/redis_server/mod.rs"]
mod redis_server;
mod resume;
mod site;

/// As the product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The parts, and what each measures.
const PARTS: [(&str, fn()); 6] = [
    ("holds", holds::one_pod),
    ("spread", holds::spread),
    ("events", events::latency),
    ("resume", resume::missed),
    ("homeless", resume::homeless),
    ("memory", memory::all),
];

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [role, redis] = wanted.as_slice()
        && role == holds::IN_PROCESS
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(holds::in_process(redis)).unwrap();
    }
    if !redis_server::is_here("pods") {
        return;
    }
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let before = load.split(' ').next().unwrap_or_default();
            println!("{name} (load of the machine before: {before})");
            part();
        }
    }
}
