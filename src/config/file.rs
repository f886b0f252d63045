//! The mirror of proxy.yaml.
