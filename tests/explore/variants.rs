//! Protocols that look right and are not: what the explorer must find, always. Each is the shipped one but for one rule.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// What ships.
    Whole,
    /// A copy is there or not; a write drops what it knows after it was answered.
    PurgeAfter,
    /// The same, and once more before.
    PurgeBeforeAndAfter,
    /// Nobody is told that a write is in flight.
    EpochWithoutHold,
    /// Whoever wants what is being fetched waits for it, whenever that was sent.
    CollapsingWithoutTheEpoch,
    /// A deletion whose answer was lost is sent again, and its 404 taken for "nothing has changed".
    ResentDelete,
    /// A 404 that is being fetched is shared like any other answer.
    Joined404,
    /// Rule 1: no fresh bits.
    EpochUsedTwice,
    /// Rule 2: a finish takes all holds away.
    FinishClearsAllHolds,
    /// Rule 2: what stands for all ambiguous writes is taken away by whoever ends next.
    FinishClearsTheAmbiguous,
    /// Rule 2: a change leaves the epoch.
    FinishLeavesTheEpoch,
    /// Rule 3: forwarded once one of its states is held.
    ForwardedHalfHeld,
    /// Rule 4: an ambiguous finish does not put back a hold that was lost.
    LostHoldStaysLost,
    /// Rule 5: the client library reconnects by itself, and nobody asks which life the store lives.
    ReconnectsSilently,
    /// Rule 6: who is linked again trusts what it finds at once.
    NoNoticeTime,
    /// Rule 6, and what shipped until it was explored: who connects for the first time waits for nobody.
    FirstWaitsForNobody,
    /// Rule 6: the holds of writes in flight are not put back.
    HoldsNotPutBack,
    /// Rule 6, and what shipped until it was explored: a write that was forwarded without a hold is not held when the
    /// store is there again.
    ForwardedIsNotHeldLater,
    /// Rule 6, likewise: a link that breaks again ends the wait for those that are not back yet.
    WaitIsForgotten,
    /// Rule 6: what was told takes with it what has come to be owed again meanwhile.
    PaidWithTheLast,
    /// Rule 7: a fetch without an epoch is joined after it has left.
    UnfencedJoinedLate,
    /// A write is forwarded as soon as it is held.
    NobodyWaitsForLeases,
    /// Rule 7: a lease counts from when its answer is there.
    LeaseFromTheReply,
    /// A write reads the terms before its holds are there.
    TermsReadBeforeTheHolds,
    /// A state read gives a lease whether or not the term stands in the store.
    LeasedWithoutATerm,
    /// Where no terms stand, nobody has leases.
    LostTermsAreNone,
    /// Terms that begin anew are the whole of them.
    NewTermsAreAll,
    /// What stands for terms that were lost is taken by an instance for its own: which the history checker
    /// found, where its own was the longest.
    LostTermsNameAll,
    /// A write that begins as the store is back waits only for the terms that came back with it.
    OldTermsAreTrusted,
    /// Rule 4: a write whose hold was lost is answered as soon as it is finished.
    AnsweredWhereTheHoldWasLost,
}
