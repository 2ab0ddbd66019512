//! What a pool does beside other busy processes.
//!
//! A thread that loses its processor in the middle of a range holds up the loop until it runs again, some milliseconds
//! later, and a system does not move a thread that ran just before to a processor that became idle; it may also wake a
//! worker on the caller's processor and leave it there. So threads look now and then whether they lost theirs. A worker
//! that did gives its processor away by itself from then on, between two loops, before it is taken from it. The calling
//! thread, without which no loop begins, changes places with a worker that was left alone.

use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::affinity::{self, Mask};

/// How often a thread looks; a part of the time that a system gives a thread at once.
const LOOK: Duration = Duration::from_millis(1);
/// How long a thread that lost its processor expects that to happen again.
const BESET: Duration = Duration::from_millis(50);
/// After how long a thread that was left alone is taken to stay so: longer than a system takes to come back to it.
const ALONE: Duration = Duration::from_millis(8);
/// How long threads keep to the processors they were put on.
const KEPT: Duration = Duration::from_millis(500);
/// No processor is known.
const NOWHERE: usize = usize::MAX;

/// What a worker says of itself.
struct Post {
    thread: AtomicI32,
    processor: AtomicUsize,
    /// When it last lost its processor, as `Posts::now` counts; 0: never.
    lost: AtomicU64,
}

/// The workers of a pool.
pub(crate) struct Posts {
    start: Instant,
    posts: Vec<Post>,
}

impl Posts {
    pub(crate) fn new(workers: usize) -> Posts {
        let post = |_| Post { thread: 0.into(), processor: NOWHERE.into(), lost: 0.into() };
        Posts { start: Instant::now(), posts: (0..workers).map(post).collect() }
    }

    /// Microseconds, beginning late enough for 0 to be long ago.
    fn now(&self, now: Instant) -> u64 {
        (now.duration_since(self.start) + BESET).as_micros() as u64
    }

    fn since_lost(&self, post: &Post, now: Instant) -> Duration {
        Duration::from_micros(self.now(now).saturating_sub(post.lost.load(Ordering::Relaxed)))
    }

    /// For the thread that is worker number `i`.
    pub(crate) fn worker(&self, i: usize) -> Worker<'_> {
        let post = &self.posts[i];
        post.thread.store(affinity::thread(), Ordering::Relaxed);
        Worker { posts: self, post, looked: Instant::now(), losses: affinity::losses() }
    }
}

/// A worker's view.
pub(crate) struct Worker<'a> {
    posts: &'a Posts,
    post: &'a Post,
    looked: Instant,
    losses: u64,
}

impl Worker<'_> {
    /// To be called between two loops.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        let losses = affinity::losses();
        if losses != self.losses {
            self.post.lost.store(self.posts.now(now), Ordering::Relaxed);
        }
        self.post.processor.store(affinity::current().unwrap_or(NOWHERE), Ordering::Relaxed);
        (self.looked, self.losses) = (now, losses);
        if self.posts.since_lost(self.post, now) < BESET {
            std::thread::yield_now();
            self.looked = Instant::now();
        }
    }
}

/// A thread that was put on a processor.
struct Moved {
    thread: i32,
    place: Mask,
    /// What it might use before.
    before: Mask,
}

/// The view of the threads that call loops, one at a time.
pub(crate) struct Caller {
    /// The last one.
    thread: i32,
    looked: Instant,
    losses: u64,
    /// When it last lost its processor.
    lost: Option<Instant>,
    moved: Vec<Moved>,
    since: Instant,
}

impl Caller {
    pub(crate) fn new() -> Caller {
        let now = Instant::now();
        Caller { thread: 0, looked: now, losses: 0, lost: None, moved: vec![], since: now }
    }

    /// To be called between two loops.
    pub(crate) fn look(&mut self, posts: &Posts) {
        let now = Instant::now();
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        let (thread, losses) = (affinity::thread(), affinity::losses());
        let (other, lost) = (thread != self.thread, losses != self.losses);
        if other || now.duration_since(self.since) > KEPT {
            self.release();
        }
        (self.thread, self.looked, self.losses) = (thread, now, losses);
        if other || !lost {
            return;
        }
        // Once may have been for some microseconds only.
        let again = self.lost.replace(now).is_some_and(|before| now.duration_since(before) < BESET);
        if let (true, Some(here)) = (again, affinity::current()) {
            self.change_places(posts, now, here);
            self.losses = affinity::losses();
        }
    }

    /// Goes where a worker was left alone, and that worker to `here`; or sends another worker away from `here`.
    fn change_places(&mut self, posts: &Posts, now: Instant, here: usize) {
        let processor = |post: &Post| post.processor.load(Ordering::Relaxed);
        let mut known = posts.posts.iter().filter(|post| processor(post) != NOWHERE);
        let alone = |post: &&Post| processor(post) != here && posts.since_lost(post, now) > ALONE;
        if let Some(post) = known.clone().find(alone) {
            self.put(self.thread, processor(post), now);
            self.put(post.thread.load(Ordering::Relaxed), here, now);
            post.processor.store(here, Ordering::Relaxed);
            return;
        }
        let mine = self.moved.iter().find(|moved| moved.thread == self.thread).map(|moved| moved.before.processors());
        let free = |cpu: &usize| *cpu != here && known.clone().all(|post| processor(post) != *cpu);
        let there = mine.unwrap_or_else(affinity::allowed).into_iter().find(free);
        if let (Some(there), Some(post)) = (there, known.find(|post| processor(post) == here)) {
            self.put(self.thread, here, now);
            self.put(post.thread.load(Ordering::Relaxed), there, now);
            post.processor.store(there, Ordering::Relaxed);
        }
    }

    fn put(&mut self, thread: i32, processor: usize, now: Instant) {
        let Some(place) = Mask::one(processor) else { return };
        match self.moved.iter_mut().find(|moved| moved.thread == thread) {
            Some(moved) => moved.place = place,
            None => match Mask::of(thread) {
                Some(before) => self.moved.push(Moved { thread, place, before }),
                None => return,
            },
        }
        self.since = now;
        place.set(thread);
    }

    /// Threads may go where they might before, unless somebody else has decided otherwise meanwhile.
    pub(crate) fn release(&mut self) {
        for moved in self.moved.drain(..) {
            if Mask::of(moved.thread) == Some(moved.place) {
                moved.before.set(moved.thread);
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_beset_caller_changes_places_and_both_are_released() {
        let (Some(before), here) = (Mask::of(0), affinity::current().unwrap()) else { return };
        let Some(there) = before.processors().into_iter().find(|&cpu| cpu != here) else { return };
        let (posts, stop) = (Posts::new(1), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let worker = posts.worker(0);
                worker.post.processor.store(there, Ordering::Relaxed);
                stop.wait();
                stop.wait();
            });
            stop.wait();
            let mut caller = Caller { thread: affinity::thread(), ..Caller::new() };
            let worker = posts.posts[0].thread.load(Ordering::Relaxed);
            caller.change_places(&posts, Instant::now(), here);
            assert!(Mask::of(0) == Mask::one(there) && Mask::of(worker) == Mask::one(here));
            // Now it is the other one that is beset, and a second time both are.
            caller.change_places(&posts, Instant::now(), there);
            assert!(Mask::of(0) == Mask::one(here) && Mask::of(worker) == Mask::one(there));
            posts.posts[0].lost.store(posts.now(Instant::now()), Ordering::Relaxed);
            caller.change_places(&posts, Instant::now(), here);
            assert!(Mask::of(0) == Mask::one(here), "both lose theirs: nothing is better");
            caller.release();
            assert!(Mask::of(0) == Some(before) && Mask::of(worker) == Some(before));
            stop.wait();
        });
    }

    #[test]
    fn a_worker_on_the_callers_processor_is_sent_away() {
        let (Some(before), here) = (Mask::of(0), affinity::current().unwrap()) else { return };
        let Some(there) = before.processors().into_iter().find(|&cpu| cpu != here) else { return };
        let posts = Posts::new(1);
        // This thread is the worker, too: what is looked at is where it was sent last.
        posts.worker(0).post.processor.store(here, Ordering::Relaxed);
        let mut caller = Caller { thread: affinity::thread(), ..Caller::new() };
        caller.change_places(&posts, Instant::now(), here);
        assert!(Mask::of(0) == Mask::one(there));
        assert_eq!(posts.posts[0].processor.load(Ordering::Relaxed), there);
        // Somebody else decides otherwise.
        before.set(0);
        caller.release();
        assert!(Mask::of(0) == Some(before));
    }
}
