//! The command line of Sendense.

fn main() -> std::process::ExitCode {
    sendense_api::cli::main()
}
