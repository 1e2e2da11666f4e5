//! The program as its users run it: real processes, real services.

mod adoption;
mod apart;
mod consume;
mod contracts;
mod crowd;
mod demo;
mod dev;
mod foreign;
mod house;
mod improved;
mod interop;
mod kms;
mod message;
mod mlflow;
mod outages;
mod program;
mod registration;
mod repair;
mod rescue;
mod secrets;
mod services;
mod settings;
mod shutdown;
mod trace;
