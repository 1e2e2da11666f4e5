//! The program as its users run it: real processes, real services.

mod house;
