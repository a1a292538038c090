//! Choosing a backend among those that may serve: pure but for a cursor and a generator, which are the
//! balancer's.

pub mod maglev;

use crate::hash::Key;
use crate::rng::Rng;
use crate::rules::{Backend, Pool, Segment};
use crate::tuple::Tuple;

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

    /// Whether it asks how many live flows a backend has.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::LeastConnections | Self::ShortestExpectedDelay | Self::NeverQueue)
    }
}

/// What choosing needs and changes.
pub(crate) struct Chooser<'b, L> {
    /// The next turn of round robin in this pool.
    pub(crate) cursor: &'b mut u32,
    pub(crate) rng: &'b mut Rng,
    /// The rule table's key.
    pub(crate) key: &'b [u8; 16],
    /// How many live flows a backend has.
    pub(crate) load: L,
}

impl<L: Fn(&Backend) -> u32> Chooser<'_, L> {
    /// A backend for a new flow; `None` if the pool is empty.
    pub(crate) fn choose(self, segment: &Segment<'_>, pool: Pool, tuple: &Tuple) -> Option<Backend> {
        let size = segment.pool_size(pool);
        let hashed = |address| {
            let hash = Key::new(self.key).address(address, 0);
            segment.member(pool, (((hash >> 32) * size as u64) >> 32) as usize)
        };
        match segment.scheduler() {
            Scheduler::Maglev if segment.maglev_size(pool) > 0 => {
                let hash = Key::new(self.key).tuple(tuple);
                segment.maglev(pool, (((hash >> 32) * u64::from(segment.maglev_size(pool))) >> 32) as u32)
            }
            Scheduler::RoundRobin => {
                let turn = *self.cursor as usize;
                let turn = if turn < size { turn } else { 0 };
                *self.cursor = turn as u32 + 1;
                segment.member(pool, turn)
            }
            Scheduler::LeastConnections | Scheduler::ShortestExpectedDelay | Scheduler::NeverQueue => {
                segment.pool(pool).min_by_key(|backend| (self.load)(backend))
            }
            Scheduler::SourceHash => hashed(tuple.source),
            Scheduler::DestinationHash => hashed(tuple.destination),
            Scheduler::Random | Scheduler::Maglev => segment.member(pool, self.rng.below(size as u32) as usize),
        }
    }
}
