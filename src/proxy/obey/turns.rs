//! One asks for a target at a time; the others wait and look again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::proxy::refresh::Duty;

/// The targets that are being asked for: who comes meanwhile waits, once.
#[derive(Default, Clone)]
pub struct InFlight(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

pub(super) enum Join {
    Lead(Turn),
    Follow(watch::Receiver<()>),
}

/// The turn to ask; over when it is dropped.
pub(super) struct Turn {
    in_flight: InFlight,
    target: String,
    duty: Option<Duty>,
    _over: watch::Sender<()>,
}

impl InFlight {
    pub(super) fn join(&self, target: &str) -> Join {
        let mut flights = self.0.lock();
        if let Some(ended) = flights.get(target) {
            return Join::Follow(ended.clone());
        }
        let (over, ended) = watch::channel(());
        flights.insert(target.to_owned(), ended);
        Join::Lead(Turn {
            in_flight: self.clone(),
            target: target.to_owned(),
            duty: None,
            _over: over,
        })
    }
}

impl Turn {
    pub(super) fn with(mut self, duty: Duty) -> Turn {
        self.duty = Some(duty);
        self
    }

    /// Something has come of it.
    pub(super) fn done(mut self) {
        if let Some(duty) = self.duty.take() {
            duty.done();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.in_flight.0.lock().remove(&self.target);
    }
}
