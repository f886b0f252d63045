//! The operator's page in a real browser: `apt-get install chromium && cargo test --test page -- --nocapture`.
//! Where there is no Chromium it says so and tests nothing. With SCREENSHOTS=docs/images it writes its pictures there.
//!
//! The browser is spoken to over two pipes, by the DevTools protocol.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{PATIENCE, within};
use tempfile::TempDir;

/// A browser takes its time on a busy machine.
const LONG: Duration = Duration::from_secs(90);

#[test]
fn the_page_shows_what_happens_and_purges_and_explains() {
    let Some(chromium) = chromium() else {
        return;
    };
    let origin = Origin::start(|request| match request.method.as_str() {
        "GET" => origin::json(format!("{:?}", request.target)).after(Duration::from_millis(3)),
        _ => origin::json("{}"),
    });
    let yaml = support::users_api(
        &origin,
        "memory:",
        "admin_token: sesame\ncanonical_origin: http://api.example.org",
    )
    .replace("key: users:list}", "key: users:list, warm: 5}");
    let larder = Arc::new(Larder::start(yaml));
    let mut browser = Browser::start(&chromium);
    browser.open(&format!("http://{}/", larder.admin_address()));

    // It asks for the token first, and shows nothing without.
    browser.until("it asks for the token", "$('login').open");
    assert_eq!(browser.eval("$('routes').children.length"), 0);
    browser.eval("$('token').value = 'sesame', $('login-form').requestSubmit()");
    browser.until("it serves", "$('state').textContent === 'serving'");

    // Numbers move under load.
    let load = Load::on(larder.clone());
    browser.until("hits are counted", "shownHits() > 20");
    let before = browser.eval("shownHits()").as_u64().unwrap();
    browser.until("they go up", &format!("shownHits() > {before} + 20"));
    browser.until(
        "rates and ratios are shown",
        "parseFloat($('rate').textContent) > 0 && parseFloat($('ratio').textContent) > 0",
    );
    browser.until("what is hot is known", "$('hottest').children.length > 0");
    browser.until("the curves have some length", "series.hits.length >= 12");

    // It explains.
    browser.eval("$('target').value = 'GET /api/users/7/', $('explain').requestSubmit()");
    browser.until(
        "it explains",
        "$('explained').textContent.includes('larder; ')",
    );
    let explained = browser.eval("$('explained').textContent");
    assert!(explained.as_str().unwrap().contains("users:detail:7"));

    for scheme in ["light", "dark"] {
        browser.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        let ground = "getComputedStyle(document.body).backgroundColor";
        let ground = browser.eval(ground);
        let expected = if scheme == "light" {
            "rgb(246, 247, 249)"
        } else {
            "rgb(18, 22, 28)"
        };
        assert_eq!(ground, expected, "{scheme}");
        if let Some(directory) = std::env::var_os("SCREENSHOTS") {
            let file = PathBuf::from(directory).join(format!("page-{scheme}.png"));
            browser.photograph(&file);
        }
    }
    load.end();

    // It purges, and asks first.
    larder.get("/api/users/7/");
    assert!(larder.get("/api/users/7/").is_hit());
    browser.eval("$('key').value = 'users:detail:7', $('purge').requestSubmit()");
    browser.until("it asks first", "$('ask').open");
    let asked = browser.eval("$('ask-what').textContent");
    assert_eq!(asked, "Drop 1 copy under users:detail:7~state?");
    assert!(
        larder.get("/api/users/7/").is_hit(),
        "nothing is dropped yet"
    );
    browser.eval("$('ask-no').click()");
    assert!(larder.get("/api/users/7/").is_hit(), "nor when it is left");
    browser.eval("$('purge').requestSubmit()");
    browser.until("it asks again", "$('ask').open");
    browser.eval("$('ask-yes').click()");
    browser.until(
        "it has purged",
        "$('purge-said').textContent.startsWith('purged')",
    );
    assert!(!larder.get("/api/users/7/").is_hit());
    browser.until(
        "the purge is in the list",
        "$('purges').textContent.includes('operator')",
    );

    // What cannot be purged is said.
    browser.eval("$('key').value = 'nothing', $('purge').requestSubmit()");
    browser.until(
        "it says so",
        "$('purge-said').textContent.includes('no route makes')",
    );

    // That answer, a 400, the browser itself reports; nothing else.
    let complaints = browser.complaints();
    let expected = |complaint: &&String| complaint.contains("/purge") && complaint.contains("400");
    let other: Vec<_> = complaints.iter().filter(|one| !expected(one)).collect();
    assert!(other.is_empty(), "{other:?}");
}

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).collect::<Vec<_>>();
    let all = names
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)));
    let found = all.into_iter().find(|file| file.exists());
    if found.is_none() {
        eprintln!("\nNOT TESTED: there is no Chromium here: apt-get install chromium\n");
    }
    found
}

/// Readers, and now and then a writer.
struct Load {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    fn on(larder: Arc<Larder>) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let mut client = larder.connect();
            let mut n = 0;
            while !ended.load(Ordering::Relaxed) {
                n += 1;
                client.get("/api/users/");
                client.get(&format!("/api/users/?page={}", n % 5));
                client.get(&format!("/api/users/{}/", n % 40));
                if n % 60 == 0 {
                    let id = n / 60 % 40;
                    client.request("PATCH", &format!("/api/users/{id}/"), &[], b"{}");
                }
                if n % 25 == 0 {
                    client.get("/api/orders/");
                }
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        Load { over, thread }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

struct Browser {
    process: Child,
    to: File,
    from: mpsc::Receiver<Value>,
    session: String,
    next: u64,
    complaints: Vec<String>,
    _directory: TempDir,
}

impl Browser {
    fn start(chromium: &Path) -> Browser {
        let directory = tempfile::tempdir().unwrap();
        let [to, from] = ["to", "from"].map(|name| directory.path().join(name));
        let made = Command::new("mkfifo").args([&to, &from]).status().unwrap();
        assert!(made.success());
        // Descriptors 3 and 4 are the browser's pipes.
        let script = "exec \"$0\" --headless=new --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage \
            --disable-background-networking --user-data-dir=\"$1\" --remote-debugging-pipe about:blank 3<\"$2\" 4>\"$3\"";
        let process = Command::new("sh")
            .args(["-c", script])
            .arg(chromium)
            .arg(directory.path().join("profile"))
            .args([&to, &from])
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each waits for the other side to open it.
        let to = OpenOptions::new().write(true).open(&to).unwrap();
        let from = File::open(&from).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let messages = BufReader::new(from).split(0);
            for message in messages.map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else {
                    continue;
                };
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        Browser {
            process,
            to,
            from: told,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
            _directory: directory,
        }
    }

    fn open(&mut self, url: &str) {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach);
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({ "width": 1180, "height": 960, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.call("Page.navigate", json!({ "url": url }));
        self.until(
            "the page is there",
            "document.title === 'Larder' && typeof tick === 'function'",
        );
        let hits = "globalThis.shownHits = () => [...$('routes').rows].reduce(
            (sum, row) => sum + Number(row.cells[3].textContent.replaceAll(',', '')), 0)";
        self.eval(hits);
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let answer = self.from.recv_timeout(LONG);
            let answer = answer.unwrap_or_else(|_| panic!("no answer to {method}"));
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.hear(&answer);
        }
    }

    /// What the page or the browser complains of.
    fn hear(&mut self, event: &Value) {
        let told = &event["params"];
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning", "assert"].contains(&told["type"].as_str().unwrap_or_default())
            }
            Some("Log.entryAdded") => told["entry"]["level"] == "error",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(told.to_string());
        }
    }

    fn complaints(&mut self) -> Vec<String> {
        self.eval("0");
        self.complaints.clone()
    }

    #[track_caller]
    fn eval(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let told = self.call("Runtime.evaluate", asked);
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    #[track_caller]
    fn until(&mut self, what: &str, condition: &str) {
        let guarded = format!(
            "(() => {{ try {{ return Boolean({condition}) }} catch {{ return false }} }})()"
        );
        within(LONG.max(PATIENCE), what, || {
            std::thread::sleep(Duration::from_millis(50));
            self.eval(&guarded) == true
        });
    }

    fn photograph(&mut self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(File::create(file).unwrap())
            .spawn()
            .unwrap();
        let text = picture["data"].as_str().unwrap();
        decode
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(decode.wait().unwrap().success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
