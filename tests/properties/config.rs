//! proxy.yaml. Input: its text. Nothing in it makes reading it fail, and no message tells a password.

use http::Method;
use larder::config::file;
use larder::proxy::plan;
use larder::route::Decoded;

const PASSWORD: &str = "hunter2-in-no-message";

pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let environment = |name: &str| match name {
        "REDIS_URL" => Some(format!("rediss://default:{PASSWORD}@127.0.0.1:6379/0")),
        "UPSTREAM" => Some("http://127.0.0.1:8000".to_owned()),
        _ => None,
    };
    let told = match file::parse("proxy.yaml", text, &environment) {
        Ok(loaded) => {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                for path in ["/api/users/", "/api/users/07/", "/", "/a//b;c/%zz"] {
                    let _ = plan::claim(&loaded.config, path);
                    let _ = plan::drops(&loaded.config, &method, &Decoded::of(path));
                }
            }
            let _ = plan::every_state(&loaded.config);
            format!("{:?} {:?}", loaded.config, loaded.warnings)
        }
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!told.contains(PASSWORD), "{told}");
}
