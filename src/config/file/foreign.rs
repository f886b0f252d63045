//! YAML that is not ours: an OpenAPI description. It is here because nothing else knows that YAML is read by this library.

use serde_json::Value;

/// The document, and else the parser's complaint with its place. Nothing in such a file is a secret.
pub fn yaml(text: &str) -> Result<Value, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}
