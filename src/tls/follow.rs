//! Following the files of the certificates while they are shown: what is new is taken, what is wrong is said once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::certificates::{Certificates, Read, Shown};
use super::pair::{Which, Written, Wrong, day};
use crate::config::CertificateFiles;

/// How often the files are looked at. They are read whole, a few KiB: a time of change can stay the same.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// For as long as the process runs. Each pair by itself: one that is bad keeps no other back.
pub async fn follow(certificates: Arc<Certificates>) {
    let mut follower = Follower::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let certificates = certificates.clone();
        let looked = tokio::task::spawn_blocking(move || {
            follower.look(&certificates);
            follower
        });
        match looked.await {
            Ok(still) => follower = still,
            // The process ends.
            Err(_) => return,
        }
    }
}

#[derive(Default)]
struct Follower {
    seen: HashMap<CertificateFiles, Seen>,
}

/// What was seen of two files.
#[derive(Default)]
struct Seen {
    last: Option<Content>,
    /// What was said to be wrong with them.
    said: Option<Wrong>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Is(blake3::Hash),
    Unreadable(Wrong),
}

/// What is to be done about what was found.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// They are what is shown again, after something else was found wanting.
    Mended,
    /// They are another pair.
    Judge,
}

impl Seen {
    /// A certificate and its key are written one after the other: only what is the same twice is looked into.
    fn find(&mut self, content: Content, shown: blake3::Hash) -> Step {
        if self.last.as_ref() != Some(&content) {
            self.last = Some(content);
            return Step::Nothing;
        }
        match (content == Content::Is(shown), self.said.is_some()) {
            (true, false) => Step::Nothing,
            (true, true) => {
                self.said = None;
                Step::Mended
            }
            (false, _) => Step::Judge,
        }
    }

    /// Whether it is to be said, for it was not yet.
    fn is_wrong(&mut self, wrong: &Wrong) -> bool {
        let news = self.said.as_ref() != Some(wrong);
        self.said = Some(wrong.clone());
        news
    }
}

impl Follower {
    fn look(&mut self, certificates: &Certificates) {
        let shown = certificates.shown();
        self.seen
            .retain(|files, _| shown.iter().any(|shown| shown.files == *files));
        for Shown { files, read } in shown.iter() {
            let seen = self.seen.entry(files.clone()).or_default();
            let written = Written::read(files);
            let content = match &written {
                Ok(written) => Content::Is(written.hash()),
                Err(wrong) => Content::Unreadable(wrong.clone()),
            };
            let cert = files.cert.display();
            match seen.find(content, read.hash) {
                Step::Nothing => {}
                Step::Mended => info!(%cert, "the certificate is what is shown again"),
                Step::Judge => match written.and_then(|written| Read::of(files, &written)) {
                    Ok(new) => {
                        certificates.exchange(files, read.hash, &new);
                        seen.said = None;
                        let about = &new.pair.about;
                        let (names, until) = (about.names.join(", "), day(about.ends));
                        info!(%cert, names, until, "the certificate is exchanged");
                    }
                    // A certificate may become right by itself, when its time begins: it is judged each time, and told once.
                    Err(wrong) => {
                        if seen.is_wrong(&wrong) {
                            let file = match wrong.which {
                                Which::Certificate => "cert",
                                Which::Key => "key",
                            };
                            let shown_until = day(read.pair.about.ends);
                            warn!(%cert, file, shown_until, "the new certificate is not taken, the one from before stays: {wrong}");
                        }
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Content {
        Content::Is(blake3::hash(text.as_bytes()))
    }

    fn wrong(cause: &str) -> Wrong {
        Wrong {
            which: Which::Key,
            cause: cause.to_owned(),
            remedy: String::new(),
        }
    }

    #[test]
    fn what_is_new_is_judged_once_it_stays_the_same() {
        let shown = blake3::hash(b"old");
        let mut seen = Seen::default();
        let mut find = |text| seen.find(content(text), shown);
        assert_eq!([find("old"), find("old")], [Step::Nothing, Step::Nothing]);
        assert_eq!(find("half"), Step::Nothing);
        assert_eq!(find("new"), Step::Nothing);
        assert_eq!(find("new"), Step::Judge);
    }

    #[test]
    fn what_is_wrong_is_said_once_and_so_is_that_it_is_mended() {
        let shown = blake3::hash(b"old");
        let mut seen = Seen::default();
        assert_eq!(seen.find(content("bad"), shown), Step::Nothing);
        assert_eq!(seen.find(content("bad"), shown), Step::Judge);
        assert!(seen.is_wrong(&wrong("no key")));
        assert_eq!(seen.find(content("bad"), shown), Step::Judge);
        assert!(!seen.is_wrong(&wrong("no key")));
        assert!(seen.is_wrong(&wrong("another cause")));
        assert_eq!(seen.find(content("old"), shown), Step::Nothing);
        assert_eq!(seen.find(content("old"), shown), Step::Mended);
        assert_eq!(seen.find(content("old"), shown), Step::Nothing);
    }
}
