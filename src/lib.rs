//! Larder: a caching reverse proxy for REST APIs that is never stale after a write.

pub mod cli {
    pub mod check;
}
pub mod config;
pub mod route;
