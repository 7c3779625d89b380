//! Bugs that are made on purpose, to see that they are found.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The store applies a commit though somebody committed in between.
    NoVersionCheck,
    /// Entries are told when their commit sets out, not when it is applied.
    TellsBeforeCommit,
    /// A REFER or re-INVITE that was not answered is sent again.
    RepeatsOnceActs,
    /// A REFER is sent twice.
    SecondRefer,
    /// An INVITE is sent twice.
    SecondInvite,
    /// The store loses its tail and keeps its epoch.
    ForgetsTail,
    /// The store does not look at terms.
    NoTerms,
    /// A notification is written twice.
    TellsTwice,
    /// A notification is never written.
    TellsNever,
    /// Two notifications are written in the wrong order.
    OutOfOrder,
    /// The last entry of a command is committed twice.
    EndsTwice,
    /// Nobody takes up what a dead process left.
    ForgetsTheDead,
    /// Entries of one tenant go to another's session as well.
    OtherTenant,
    /// The store forgets the ids of commands that ended.
    ForgetsIds,
    /// An answer of the stack is thrown away.
    DeafToAnswers,
    /// Setup legs are not ended.
    LeavesLegs,
    /// Calls that nobody named are ended when a process starts.
    EndsCalls,
    /// What was sent is told as never sent.
    DeniesSending,
}
