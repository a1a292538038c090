//! Choosing a backend among those that may serve: pure but for a cursor and a generator, which are the
//! balancer's.

pub mod maglev;

use crate::hash::Key;
use crate::rng::Rng;
use crate::rules::{Backend, Pool, Segment};
pub use crate::scheduler::Scheduler;
use crate::tuple::Tuple;

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
    /// A backend for a new flow; `None` if the pool is empty. What most services have is chosen by in line.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn choose(self, segment: &Segment<'_>, pool: Pool, tuple: &Tuple) -> Option<Backend> {
        match segment.scheduler() {
            Scheduler::Random => self.draw(segment, pool),
            other => self.choose_by(other, segment, pool, tuple),
        }
    }

    #[inline(never)]
    fn choose_by(self, scheduler: Scheduler, segment: &Segment<'_>, pool: Pool, tuple: &Tuple) -> Option<Backend> {
        let size = segment.pool_size(pool);
        let hashed = |address| {
            let hash = Key::new(self.key).address(address, 0);
            segment.member(pool, (((hash >> 32) * size as u64) >> 32) as usize)
        };
        match scheduler {
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
                least(segment.pool(pool), self.load)
            }
            Scheduler::SourceHash => hashed(tuple.source),
            Scheduler::DestinationHash => hashed(tuple.destination),
            Scheduler::Random | Scheduler::Maglev => self.draw(segment, pool),
        }
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn draw(self, segment: &Segment<'_>, pool: Pool) -> Option<Backend> {
        let size = segment.pool_size(pool) as u32;
        segment.member(pool, self.rng.below(size) as usize)
    }
}

/// The first of those with the least load. Nothing is below an idle one, so that those behind it are not asked.
fn least(backends: impl Iterator<Item = Backend>, load: impl Fn(&Backend) -> u32) -> Option<Backend> {
    let mut found: Option<(u32, Backend)> = None;
    for backend in backends {
        let load = load(&backend);
        if found.as_ref().is_none_or(|(least, _)| load < *least) {
            found = Some((load, backend));
        }
        if load == 0 {
            break;
        }
    }
    found.map(|(_, backend)| backend)
}
