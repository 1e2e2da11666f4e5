//! On macOS a library that leaves symbols to be found when it is loaded has to say so.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
