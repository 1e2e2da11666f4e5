//! The program `hokusai`; everything it does is in the library of the same name.

use std::process::ExitCode;

/// Registering is a thousand small allocations in each millisecond, on several threads, and glibc's allocator was a sixth of its cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hokusai::command(std::env::args_os()).into()
}
