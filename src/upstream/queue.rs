//! The right to have a request under way at the upstream: so many at once, so many more in line, and nobody alone can
//! shut the others out.
//!
//! - Who waits is served in turns, one request of each asker after the other, and not in the order in which they came.
//! - When the line is full, the asker with most in it gives up a place to who has fewer, its latest first.
//! - One asker has at most three quarters of all slots under way, so that those who hold one for as long as they like
//!   (a trickled upload, an answer that is not read) are never all.
//! - A fetch that several wait for stands in the turn of the one among them who has the fewest in line.
//!
//! `Line` is all of that as a value; `Queue` is a lock around it, with a channel to each who waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::error::UpstreamFailure;
use crate::message::subscriber::Subscriber;

/// Who asks, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Larder itself, or a trusted proxy that does not say for whom: nobody's share, and one turn for all of them.
    Unknown,
    Client(Subscriber),
}

pub struct Queue {
    line: Mutex<Line<oneshot::Sender<Slot>>>,
}

/// The right to have one request under way. Dropped, it goes to the next in line.
pub struct Slot {
    queue: Arc<Queue>,
    asker: Asker,
}

/// How busy the upstream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    pub under_way: usize,
    pub waiting: usize,
    /// How many clients those who wait are.
    pub waiting_clients: usize,
}

impl Queue {
    pub fn new(slots: usize, places: usize) -> Arc<Queue> {
        Arc::new(Queue {
            line: Mutex::new(Line::new(slots, places)),
        })
    }

    /// Waits in line for a slot. Whoever stops waiting leaves the line. `copy` is what others may be waiting for, too.
    pub async fn slot(
        self: &Arc<Self>,
        asker: Asker,
        copy: Option<u64>,
        patience: Duration,
    ) -> Result<Slot, UpstreamFailure> {
        let slot = || Slot {
            queue: self.clone(),
            asker,
        };
        let (arrival, told) = {
            let mut line = self.line.lock();
            if line.goes_at_once(asker) {
                return Ok(slot());
            }
            let (tell, told) = oneshot::channel();
            (line.arrive(asker, copy, tell), told)
        };
        let ticket = match arrival {
            Arrival::Goes => return Ok(slot()),
            Arrival::Refused => return Err(UpstreamFailure::QueueFull),
            Arrival::Waits { ticket, instead_of } => {
                // Who is sent away hears of it by the channel's end.
                drop(instead_of);
                ticket
            }
        };
        // Dropped before `told`: after it, no slot can be on its way to nobody.
        let _place = Place {
            queue: self,
            ticket,
        };
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) => Err(UpstreamFailure::QueueFull),
            Err(_) => Err(UpstreamFailure::QueueTimeout),
        }
    }

    /// Somebody else waits for that copy, too. Who comes before its fetch is in line is not counted.
    pub fn is_wanted_by(self: &Arc<Self>, asker: Asker, copy: u64) {
        let next = {
            let mut line = self.line.lock();
            line.join(asker, copy);
            line.next()
        };
        self.hand_over(next);
    }

    /// A slot to whom it goes. Not while the line is locked.
    fn hand_over(self: &Arc<Self>, next: Option<(Asker, oneshot::Sender<Slot>)>) {
        if let Some((asker, tell)) = next {
            // Unheard, it drops there and goes on to the next.
            let _ = tell.send(Slot {
                queue: self.clone(),
                asker,
            });
        }
    }

    pub fn load(&self) -> Load {
        let line = self.line.lock();
        Load {
            under_way: line.slots - line.free,
            waiting: line.length,
            waiting_clients: line.turns.len(),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = self.queue.line.lock().leave(self.asker);
        self.queue.hand_over(next);
    }
}

/// A place in line, given up when dropped.
struct Place<'q> {
    queue: &'q Queue,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.queue.line.lock().give_up(self.ticket);
        drop(left);
    }
}

/// Who has a slot, and who waits for one.
struct Line<T> {
    slots: usize,
    free: usize,
    /// Places in it.
    places: usize,
    /// Those that are taken.
    length: usize,
    under_way: HashMap<Asker, usize, RandomState>,
    /// Whose turn is next stands first. Nobody is here who does not wait.
    turns: VecDeque<Turn<T>>,
    last: u64,
}

struct Turn<T> {
    asker: Asker,
    /// The oldest first.
    waiting: VecDeque<Waiting<T>>,
}

struct Waiting<T> {
    ticket: u64,
    copy: Option<u64>,
    tell: T,
}

#[derive(Debug, PartialEq, Eq)]
enum Arrival<T> {
    Goes,
    Waits {
        ticket: u64,
        /// Who gives up a place for it.
        instead_of: Option<T>,
    },
    Refused,
}

impl<T> Line<T> {
    fn new(slots: usize, places: usize) -> Self {
        Line {
            slots,
            free: slots,
            places,
            length: 0,
            under_way: HashMap::default(),
            turns: VecDeque::new(),
            last: 0,
        }
    }

    /// If one is free, all who wait have their share.
    fn goes_at_once(&mut self, asker: Asker) -> bool {
        let goes = self.free > 0 && self.may_have_one_more(asker);
        if goes {
            self.take(asker);
        }
        goes
    }

    fn arrive(&mut self, asker: Asker, copy: Option<u64>, tell: T) -> Arrival<T> {
        if self.goes_at_once(asker) {
            return Arrival::Goes;
        }
        let mut instead_of = None;
        if self.length >= self.places {
            let Some(most) = self.turns.iter_mut().max_by_key(|turn| turn.waiting.len()) else {
                return Arrival::Refused;
            };
            let (largest, most) = (most.asker, most.waiting.len());
            // Not if the two would only change places.
            if most < self.waiting(asker) + 2 {
                return Arrival::Refused;
            }
            instead_of = self.take_from(largest, VecDeque::pop_back);
        }
        self.last += 1;
        let ticket = self.last;
        self.wait(asker, Waiting { ticket, copy, tell });
        Arrival::Waits {
            ticket,
            instead_of: instead_of.map(|waiting| waiting.tell),
        }
    }

    /// A slot is given back. To whom it goes.
    fn leave(&mut self, asker: Asker) -> Option<(Asker, T)> {
        self.free += 1;
        if let Some(under_way) = self.under_way.get_mut(&asker) {
            *under_way -= 1;
            if *under_way == 0 {
                self.under_way.remove(&asker);
            }
        }
        self.next()
    }

    /// Whoever may have a slot now that one is free, and waits.
    fn next(&mut self) -> Option<(Asker, T)> {
        if self.free == 0 {
            return None;
        }
        let turn = (self.turns.iter()).position(|turn| self.may_have_one_more(turn.asker))?;
        let next = self.turns[turn].asker;
        let waiting = self.take_from(next, VecDeque::pop_front)?;
        // Its next turn is after everybody else's.
        if let Some(turn) = self.turns.iter().position(|turn| turn.asker == next)
            && let Some(turn) = self.turns.remove(turn)
        {
            self.turns.push_back(turn);
        }
        self.take(next);
        Some((next, waiting.tell))
    }

    fn give_up(&mut self, ticket: u64) -> Option<T> {
        let holds = |turn: &Turn<T>| turn.waiting.iter().position(|one| one.ticket == ticket);
        let (asker, at) =
            (self.turns.iter()).find_map(|turn| holds(turn).map(|at| (turn.asker, at)))?;
        self.take_from(asker, |waiting| waiting.remove(at))
            .map(|waiting| waiting.tell)
    }

    /// The fetch of that copy goes to the turn of `asker`, if that is the shorter wait. It may be the `next` then.
    fn join(&mut self, asker: Asker, copy: u64) {
        let holds = |turn: &Turn<T>| turn.waiting.iter().position(|one| one.copy == Some(copy));
        let Some((theirs, at, before)) = self.turns.iter().find_map(|turn| {
            holds(turn).map(|at| {
                (
                    turn.asker,
                    at,
                    at.max(usize::from(self.has_its_share(turn))),
                )
            })
        }) else {
            return;
        };
        if theirs == asker || self.waiting(asker) >= before || !self.may_have_one_more(asker) {
            return;
        }
        if let Some(waiting) = self.take_from(theirs, |waiting| waiting.remove(at)) {
            self.wait(asker, waiting);
        }
    }

    fn wait(&mut self, asker: Asker, waiting: Waiting<T>) {
        self.length += 1;
        match self.turns.iter_mut().find(|turn| turn.asker == asker) {
            Some(turn) => turn.waiting.push_back(waiting),
            None => self.turns.push_back(Turn {
                asker,
                waiting: VecDeque::from([waiting]),
            }),
        }
    }

    fn take_from(
        &mut self,
        asker: Asker,
        take: impl FnOnce(&mut VecDeque<Waiting<T>>) -> Option<Waiting<T>>,
    ) -> Option<Waiting<T>> {
        let at = self.turns.iter().position(|turn| turn.asker == asker)?;
        let taken = take(&mut self.turns[at].waiting)?;
        self.length -= 1;
        if self.turns[at].waiting.is_empty() {
            self.turns.remove(at);
        }
        Some(taken)
    }

    fn take(&mut self, asker: Asker) {
        self.free -= 1;
        *self.under_way.entry(asker).or_default() += 1;
    }

    fn waiting(&self, asker: Asker) -> usize {
        let turn = self.turns.iter().find(|turn| turn.asker == asker);
        turn.map_or(0, |turn| turn.waiting.len())
    }

    fn has_its_share(&self, turn: &Turn<T>) -> bool {
        !self.may_have_one_more(turn.asker)
    }

    fn may_have_one_more(&self, asker: Asker) -> bool {
        let under_way = self.under_way.get(&asker).copied().unwrap_or_default();
        match asker {
            Asker::Unknown => true,
            Asker::Client(_) => under_way < self.slots - self.slots / 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn client(number: u8) -> Asker {
        Asker::Client(Subscriber::of([192, 0, 2, number].into()))
    }

    fn load(queue: &Queue) -> (usize, usize) {
        let load = queue.load();
        (load.under_way, load.waiting)
    }

    /// A line of one slot that is taken, with these waiting.
    fn line(places: usize, waiting: &[(u8, &'static str)]) -> Line<&'static str> {
        let mut line = Line::new(1, places);
        assert_eq!(
            line.arrive(Asker::Unknown, None, "under way"),
            Arrival::Goes
        );
        for (asker, name) in waiting {
            let arrival = line.arrive(client(*asker), None, name);
            assert!(matches!(
                arrival,
                Arrival::Waits {
                    instead_of: None,
                    ..
                }
            ));
        }
        line
    }

    /// In which order those who wait are served.
    fn served(mut line: Line<&'static str>) -> Vec<&'static str> {
        let mut served = Vec::new();
        let mut last = Asker::Unknown;
        while let Some((asker, name)) = line.leave(last) {
            served.push(name);
            last = asker;
        }
        assert_eq!((line.free, line.length), (1, 0));
        assert!(line.under_way.is_empty());
        served
    }

    #[test]
    fn who_waits_is_served_in_turns() {
        let line = line(
            9,
            &[
                (1, "a1"),
                (1, "a2"),
                (1, "a3"),
                (2, "b1"),
                (3, "c1"),
                (2, "b2"),
            ],
        );
        assert_eq!(served(line), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn at_a_full_line_the_one_with_most_in_it_gives_up_its_latest_place() {
        let mut line = line(4, &[(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1")]);
        assert_eq!(line.arrive(client(1), None, "a4"), Arrival::Refused);
        let Arrival::Waits { instead_of, .. } = line.arrive(client(3), None, "c1") else {
            panic!("c was refused");
        };
        assert_eq!(instead_of, Some("a3"));
        // Two each and one each: nobody would be better off.
        assert_eq!(line.arrive(client(2), None, "b2"), Arrival::Refused);
        assert_eq!(line.length, 4);
        assert_eq!(served(line), ["a1", "b1", "c1", "a2"]);
    }

    #[test]
    fn without_a_place_in_line_everybody_is_refused() {
        assert_eq!(line(0, &[]).arrive(client(1), None, "a1"), Arrival::Refused);
    }

    #[test]
    fn one_client_has_three_quarters_of_the_slots_and_who_is_unknown_all() {
        let mut line = Line::new(4, 9);
        for _ in 0..3 {
            assert_eq!(line.arrive(client(1), None, "a"), Arrival::Goes);
        }
        let waits = |arrival| matches!(arrival, Arrival::Waits { .. });
        assert!(waits(line.arrive(client(1), None, "a4")));
        assert_eq!(line.arrive(client(2), None, "b"), Arrival::Goes);
        // What is given back by another is not for who has its share.
        assert_eq!(line.leave(client(2)), None);
        assert_eq!(line.arrive(client(2), None, "b"), Arrival::Goes);
        assert_eq!(line.leave(client(1)), Some((client(1), "a4")));

        let mut line = Line::new(4, 0);
        for _ in 0..4 {
            assert_eq!(line.arrive(Asker::Unknown, None, "x"), Arrival::Goes);
        }
        let mut line = Line::new(1, 0);
        assert_eq!(line.arrive(client(1), None, "a"), Arrival::Goes);
    }

    #[test]
    fn who_gives_up_leaves_the_line() {
        let mut line = line(2, &[(1, "a1")]);
        let Arrival::Waits { ticket, .. } = line.arrive(client(1), None, "a2") else {
            panic!("a2 was refused");
        };
        assert_eq!(line.give_up(ticket), Some("a2"));
        assert_eq!(line.give_up(ticket), None);
        assert_eq!(served(line), ["a1"]);
    }

    #[test]
    fn a_fetch_waits_in_the_turn_of_whoever_of_its_clients_has_the_shortest_wait() {
        let fetch = Some(7);
        let mut line = line(9, &[(1, "a1"), (1, "a2"), (1, "a3"), (3, "c1")]);
        line.arrive(client(1), fetch, "list");
        line.join(client(2), 8);
        line.join(client(2), 7);
        assert_eq!(line.length, 5);
        assert_eq!(served(line), ["a1", "c1", "list", "a2", "a3"]);
    }

    #[test]
    fn a_fetch_whose_first_client_has_its_share_goes_on_for_another() {
        let mut line = Line::new(4, 9);
        for _ in 0..3 {
            line.arrive(client(1), None, "a");
        }
        line.arrive(client(2), None, "b");
        line.arrive(client(1), Some(7), "list");
        line.join(client(3), 7);
        assert_eq!(line.leave(client(2)), Some((client(3), "list")));
    }

    #[tokio::test]
    async fn a_fetch_that_another_wants_who_may_have_the_free_slot_has_it_at_once() {
        let queue = Queue::new(4, 9);
        let mut share = Vec::new();
        for _ in 0..3 {
            share.push(queue.slot(client(1), None, PATIENCE).await.ok().unwrap());
        }
        let mut list = Box::pin(queue.slot(client(1), Some(7), PATIENCE));
        assert!((&mut list).now_or_never().is_none());
        assert_eq!(load(&queue), (3, 1));
        queue.is_wanted_by(client(1), 7);
        assert_eq!(load(&queue), (3, 1), "it is the same client");
        queue.is_wanted_by(client(2), 7);
        let slot = list.now_or_never().unwrap().ok().unwrap();
        assert_eq!(load(&queue), (4, 0));
        // On the account of who wants it.
        assert_eq!(slot.asker, client(2));
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_leaves_the_line_and_loses_no_slot() {
        let queue = Queue::new(1, 1);
        let first = queue.slot(client(1), None, PATIENCE).await.ok().unwrap();
        for _ in 0..3 {
            let mut waits = Box::pin(queue.slot(client(2), None, PATIENCE));
            assert!((&mut waits).now_or_never().is_none());
            assert_eq!(load(&queue), (1, 1));
            drop(waits);
            assert_eq!(load(&queue), (1, 0));
        }
        // Cancelled with the slot already on its way to it.
        let mut waits = Box::pin(queue.slot(client(2), None, PATIENCE));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        assert_eq!(load(&queue), (1, 0));
        drop(waits);
        assert_eq!(load(&queue), (0, 0));
        assert!(queue.slot(client(3), None, PATIENCE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_sent_away_and_who_has_waited_too_long_are_told_apart() {
        let queue = Queue::new(1, 2);
        let _first = queue.slot(client(1), None, PATIENCE).await.ok().unwrap();
        let (a, b) = (
            queue.slot(client(2), None, PATIENCE),
            queue.slot(client(2), None, PATIENCE),
        );
        let (mut a, mut b) = (Box::pin(a), Box::pin(b));
        assert!((&mut a).now_or_never().is_none());
        assert!((&mut b).now_or_never().is_none());
        let mut c = Box::pin(queue.slot(client(3), None, PATIENCE));
        assert!((&mut c).now_or_never().is_none());
        assert_eq!(b.await.err(), Some(UpstreamFailure::QueueFull));
        assert_eq!(a.await.err(), Some(UpstreamFailure::QueueTimeout));
        assert_eq!(
            queue.slot(client(9), None, PATIENCE).await.err(),
            Some(UpstreamFailure::QueueTimeout)
        );
        drop(c);
        assert_eq!(load(&queue), (1, 0));
    }
}
