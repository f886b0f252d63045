//! Larder: a caching reverse proxy for REST APIs that is never stale after a write.
//!
//! The map of the house, in the order in which a request walks through it; docs/ARCHITECTURE.md tells more.

pub mod cli;
pub mod config;

pub mod interim;
pub mod server;
pub mod text;
pub mod tls;

pub mod proxy;

pub mod message;
pub mod route;

pub mod access;
pub mod caching;

pub mod coherence;
pub mod store;

pub mod body;
pub mod upstream;

pub mod encoding;
pub mod error;
pub mod reply;

pub mod admin;
pub mod operations;
pub mod reload;
pub mod service;
pub mod warming;

pub mod doctor;
pub mod explain;
pub mod init;
pub mod shadow;
pub mod top;

pub mod clock;
pub mod hexadecimal;
pub mod metrics;
pub mod purges;
pub mod recurring;
pub mod telemetry;
