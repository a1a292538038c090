//! The names of the ways to choose: what an image stores and [`pick`](crate::pick) does.

/// How a backend is chosen among those that may be (SEMANTICS §7.5, §14.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Scheduler {
    /// Uniformly at random.
    Random = 0,
    /// One after the other, by rising address.
    RoundRobin = 1,
    /// By a Maglev table over the client's tuple: every node and core with the same rules picks alike.
    Maglev = 2,
    /// The one with the fewest live flows, the first by address among equals.
    LeastConnections = 3,
    /// By a hash of the client's address.
    SourceHash = 4,
    /// By a hash of the address dialled.
    DestinationHash = 5,
    /// The one whose flows per weight would be fewest with one more. All weights are 1 (§14.3), so this is
    /// [`Self::LeastConnections`].
    ShortestExpectedDelay = 6,
    /// An idle one, else [`Self::ShortestExpectedDelay`]; with weights of 1 the same again.
    NeverQueue = 7,
}

impl Scheduler {
    /// Every scheduler.
    pub const ALL: &'static [Self] = &[
        Self::Random,
        Self::RoundRobin,
        Self::Maglev,
        Self::LeastConnections,
        Self::SourceHash,
        Self::DestinationHash,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
    ];

    /// The scheduler of this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Random),
            1 => Some(Self::RoundRobin),
            2 => Some(Self::Maglev),
            3 => Some(Self::LeastConnections),
            4 => Some(Self::SourceHash),
            5 => Some(Self::DestinationHash),
            6 => Some(Self::ShortestExpectedDelay),
            7 => Some(Self::NeverQueue),
            _ => None,
        }
    }

    /// What it is called on a command line: ipvs' own names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "rr",
            Self::Maglev => "maglev",
            Self::LeastConnections => "lc",
            Self::SourceHash => "sh",
            Self::DestinationHash => "dh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
        }
    }

    /// Whether neither earlier flows nor other live ones count: the packet and chance alone.
    pub(crate) const fn forgets(self) -> bool {
        !matches!(self, Self::RoundRobin) && !self.counts()
    }

    /// Whether it asks how many live flows a backend has.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::LeastConnections | Self::ShortestExpectedDelay | Self::NeverQueue)
    }
}
