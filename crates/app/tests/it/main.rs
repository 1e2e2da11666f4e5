//! The program as its users run it: real processes, real services.

mod consume;
mod demo;
mod dev;
mod house;
mod message;
mod program;
mod registration;
mod services;
mod settings;
