//! What the service manager is told (sd_notify): that we are ready, reload, stop, and are still alive. Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Requests are answered from now on; or again, after `reloading`.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that the process is alive as often as the manager asks for it, if it does. Asked of the runtime: if nothing runs on
/// it any more, this does not, either.
pub async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval((patience / 3).max(Duration::from_millis(10)));
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
