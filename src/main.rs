//! The `callplane` binary: arguments in, exit code out. Everything else is in the library.

/// Records that are kept lie between what lives for one step: with the C library's allocator
/// holds took 1.6 times the processor time (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    callplane::cli::main()
}
