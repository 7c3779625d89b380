//! (in work)

/// Runs the command line and says how it went.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
