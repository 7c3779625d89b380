//! One thread, virtual time, and an order that the seed decides.
//!
//! Tasks belong to a group (a process of the simulation, or the world around them). A group can be
//! paused, so that nothing of it runs while time passes, and ended, so that its tasks are dropped.
//!
//! What the product is given must be able to go to other threads, and nothing here ever does. So the
//! state is the thread's own, and costs no lock: one schedule at a time on each thread.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::random::Random;
use callplane::clock::Timer;

pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

type Call = Box<dyn FnOnce() + Send>;

/// Who a task belongs to. 0 is the world.
pub type Group = usize;

pub const WORLD: Group = 0;

/// Time begins here: the proxies have been up for a while.
pub const START: Duration = Duration::from_secs(3);

/// Microseconds that are near.
const NEAR: u64 = 20_000;

thread_local! {
    /// Microseconds.
    static NOW: Cell<u64> = const { Cell::new(0) };
    static STATE: RefCell<State> = RefCell::new(State::new(Random::new(0)));
    /// Apart, so that a task may be woken from wherever.
    static READY: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Runs everything of this thread.
#[derive(Clone, Copy)]
pub struct Executor(());

struct State {
    tasks: Vec<Slot>,
    free: Vec<usize>,
    /// What is to happen before `near_until`, the earliest on top; and the rest. Most of what lies far
    /// ahead is the end of a patience, which nobody waits for any more when it is near.
    near: BinaryHeap<Reverse<Scheduled>>,
    far: BinaryHeap<Reverse<Scheduled>>,
    near_until: u64,
    scheduled: u32,
    calls: Slab<(Group, Call)>,
    naps: Slab<Waker>,
    groups: Vec<GroupState>,
    random: Random,
    spawned: u64,
    /// From then on also a nap that nobody waits for is a moment.
    all_count_from: u64,
}

impl State {
    fn new(random: Random) -> Self {
        Self {
            tasks: Vec::new(),
            free: Vec::new(),
            near: BinaryHeap::new(),
            far: BinaryHeap::new(),
            near_until: 0,
            scheduled: 0,
            calls: Slab::default(),
            naps: Slab::default(),
            groups: vec![GroupState::default()],
            random,
            spawned: 0,
            all_count_from: 0,
        }
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.scheduled += 1;
        let queue = if at < self.near_until { &mut self.near } else { &mut self.far };
        queue.push(Reverse(Scheduled::new(at, self.scheduled, what)));
    }

    /// The next thing. Naps that nobody waits for are left out, but for those in the time when it is
    /// looked again and again whether all is over: they are moments to look at, too.
    fn next(&mut self) -> Option<Scheduled> {
        while self.near.is_empty() {
            let Reverse(first) = self.far.peek()?;
            self.near_until = first.at().saturating_add(NEAR);
            while let Some(first) = self.far.peek_mut()
                && first.0.at() < self.near_until
            {
                let Reverse(next) = PeekMut::pop(first);
                match next.what() {
                    What::Wake(place)
                        if next.at() < self.all_count_from && self.naps.is_empty_at(place) =>
                    {
                        self.naps.free(place);
                    }
                    What::Wake(_) | What::Call(_) => self.near.push(Reverse(next)),
                }
            }
        }
        self.near.peek().map(|Reverse(next)| *next)
    }
}

#[derive(Default)]
struct Slot {
    /// Both are away while it runs.
    work: Option<Work>,
    waker: Option<(Waker, Arc<Flag>)>,
    group: Group,
    /// Which task it is; 0 is none.
    task: u64,
}

#[derive(Default)]
struct GroupState {
    paused: bool,
    ended: bool,
    /// Woken while paused.
    parked: Vec<usize>,
    /// Called for while paused.
    held: Vec<Call>,
}

/// Wakes one task, once until it was polled.
struct Flag {
    slot: usize,
    woken: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Never from two threads: a swap would only cost time.
        if !self.woken.load(Relaxed) {
            self.woken.store(true, Relaxed);
            // The thread may be over.
            let _ = READY.try_with(|ready| ready.borrow_mut().push(self.slot));
        }
    }
}

/// What is to happen, by its place.
#[derive(Clone, Copy)]
enum What {
    Wake(u32),
    Call(u32),
}

/// What is to happen when, as one number: in the order of time, then in that of asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled(u128);

impl Scheduled {
    fn new(at: u64, number: u32, what: What) -> Self {
        let what = match what {
            What::Wake(place) => place << 1,
            What::Call(place) => place << 1 | 1,
        };
        Self(u128::from(at) << 64 | u128::from(number) << 32 | u128::from(what))
    }

    fn at(self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn what(self) -> What {
        let what = self.0 as u32;
        if what & 1 == 0 { What::Wake(what >> 1) } else { What::Call(what >> 1) }
    }
}

/// Places that are used again.
struct Slab<T> {
    /// With how often each was used.
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn put(&mut self, value: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).unwrap()
        });
        self.places[place as usize].1 = Some(value);
        place
    }

    /// Empties a place for good.
    fn free(&mut self, place: u32) -> Option<T> {
        let (times, value) = &mut self.places[place as usize];
        *times += 1;
        self.free.push(place);
        value.take()
    }

    fn is_empty_at(&self, place: u32) -> bool {
        self.places[place as usize].1.is_none()
    }

    fn times(&self, place: u32) -> u32 {
        self.places[place as usize].0
    }

    /// What is there, unless the place has been freed since.
    fn at(&mut self, place: u32, times: u32) -> Option<&mut Option<T>> {
        let (now, value) = self.places.get_mut(place as usize)?;
        (*now == times).then_some(value)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn with<R>(work: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(work)
}

impl Executor {
    /// Begins anew on this thread. From that time on every moment counts at which anything was to
    /// happen, be it that nobody waits for it any more.
    pub fn new(random: Random, all_count_from: Duration) -> Self {
        let executor = Self(());
        executor.clear();
        NOW.set(micros(START));
        let all_count_from = micros(all_count_from);
        with(|state| *state = State { all_count_from, ..State::new(random) });
        executor
    }

    /// Drops everything.
    pub fn clear(self) {
        // What is dropped may wake others: not while the state is held.
        drop(with(|state| std::mem::replace(state, State::new(Random::new(0)))));
        drop(READY.take());
    }

    pub fn now(self) -> Duration {
        Duration::from_micros(NOW.get())
    }

    pub fn millis(self) -> u64 {
        NOW.get() / 1000
    }

    pub fn group(self) -> Group {
        with(|state| {
            state.groups.push(GroupState::default());
            state.groups.len() - 1
        })
    }

    pub fn spawn(self, group: Group, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(group, Box::pin(work));
    }

    pub fn spawn_boxed(self, group: Group, work: Work) {
        let refused = with(|state| {
            if state.groups[group].ended {
                return Some(work);
            }
            let slot = state.free.pop().unwrap_or_else(|| {
                state.tasks.push(Slot::default());
                state.tasks.len() - 1
            });
            state.spawned += 1;
            let flag = Arc::new(Flag { slot, woken: AtomicBool::new(true) });
            let waker = Some((Waker::from(Arc::clone(&flag)), flag));
            state.tasks[slot] = Slot { work: Some(work), waker, group, task: state.spawned };
            READY.with_borrow_mut(|ready| ready.push(slot));
            None
        });
        drop(refused);
    }

    /// Calls then, unless the group has ended; when it goes on, if it is paused.
    pub fn at(self, at: Duration, group: Group, call: impl FnOnce() + Send + 'static) {
        self.call_at(micros(at), group, Box::new(call));
    }

    pub fn after(self, wait: Duration, group: Group, call: impl FnOnce() + Send + 'static) {
        self.call_at(NOW.get() + micros(wait), group, Box::new(call));
    }

    fn call_at(self, at: u64, group: Group, call: Call) {
        with(|state| {
            let place = state.calls.put((group, call));
            state.schedule(at, What::Call(place));
        });
    }

    pub fn sleep(self, how_long: Duration) -> Nap {
        Nap { at: NOW.get().saturating_add(micros(how_long)), place: None }
    }

    pub fn pause(self, group: Group) {
        with(|state| state.groups[group].paused = true);
    }

    pub fn go_on(self, group: Group) {
        let (parked, held) = with(|state| {
            let of = &mut state.groups[group];
            of.paused = false;
            (std::mem::take(&mut of.parked), std::mem::take(&mut of.held))
        });
        READY.with_borrow_mut(|ready| ready.extend(parked));
        for call in held {
            call();
        }
    }

    /// Drops everything of the group.
    pub fn end(self, group: Group) {
        let dropped = with(|state| {
            let of = &mut state.groups[group];
            of.ended = true;
            of.paused = false;
            let (parked, held) = (std::mem::take(&mut of.parked), std::mem::take(&mut of.held));
            let mut dropped = Vec::new();
            for slot in &mut state.tasks {
                if slot.group == group && slot.work.is_some() {
                    // Its number stays in use where somebody may still wake it.
                    dropped.push(std::mem::take(slot));
                }
            }
            (dropped, parked, held)
        });
        drop(dropped);
    }

    /// Lets all that is ready run.
    pub fn settle(self) {
        while let Some((at, task, mut work, waker)) = take_ready() {
            waker.1.woken.store(false, Relaxed);
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker.0));
            let dropped = with(|state| {
                let slot = &mut state.tasks[at];
                if slot.task != task {
                    // Its group ended while it ran.
                    return Some((work, waker));
                }
                match polled {
                    Poll::Pending => {
                        (slot.work, slot.waker) = (Some(work), Some(waker));
                        None
                    }
                    Poll::Ready(()) => {
                        *slot = Slot::default();
                        state.free.push(at);
                        Some((work, waker))
                    }
                }
            });
            drop(dropped);
        }
    }

    /// When something is to happen, in microseconds.
    pub fn due(self) -> Option<u64> {
        with(|state| state.next().map(Scheduled::at))
    }

    /// Time passes until then; what is due is done by [`Self::fire`].
    pub fn advance(self, to: u64) {
        NOW.set(NOW.get().max(to));
    }

    /// Does one thing that is due.
    pub fn fire(self) {
        let now = NOW.get();
        let fired = with(|state| {
            let next = state.next().filter(|next| next.at() <= now)?;
            state.near.pop();
            match next.what() {
                What::Wake(place) => state.naps.free(place).map(Fired::Wake),
                What::Call(place) => {
                    let (group, call) = state.calls.free(place)?;
                    let of = &mut state.groups[group];
                    if of.ended {
                        return Some(Fired::Nothing(call));
                    }
                    if of.paused {
                        of.held.push(call);
                        return None;
                    }
                    Some(Fired::Call(call))
                }
            }
        });
        match fired {
            Some(Fired::Wake(waker)) => waker.wake(),
            Some(Fired::Call(call)) => call(),
            Some(Fired::Nothing(call)) => drop(call),
            None => {}
        }
    }
}

enum Fired {
    Wake(Waker),
    Call(Call),
    Nothing(Call),
}

type Taken = (usize, u64, Work, (Waker, Arc<Flag>));

fn take_ready() -> Option<Taken> {
    with(|state| {
        loop {
            let at = READY.with_borrow_mut(|ready| match ready.len() {
                0 => None,
                1 => ready.pop(),
                many => Some(ready.swap_remove(state.random.index(many))),
            })?;
            let slot = &mut state.tasks[at];
            if slot.task == 0 {
                continue;
            }
            let of = &mut state.groups[slot.group];
            if of.paused {
                of.parked.push(at);
                continue;
            }
            let Some(work) = slot.work.take() else { continue };
            let Some(waker) = slot.waker.take() else { continue };
            return Some((at, slot.task, work, waker));
        }
    })
}

/// Time that passes.
pub struct Nap {
    at: u64,
    /// Where its waker is, and how often that place was used.
    place: Option<(u32, u32)>,
}

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if NOW.get() >= self.at {
            return Poll::Ready(());
        }
        let before = with(|state| match self.place {
            Some((place, times)) => match state.naps.at(place, times)? {
                Some(waker) if waker.will_wake(context.waker()) => None,
                waker => waker.replace(context.waker().clone()),
            },
            None => {
                let place = state.naps.put(context.waker().clone());
                self.place = Some((place, state.naps.times(place)));
                state.schedule(self.at, What::Wake(place));
                None
            }
        });
        drop(before);
        Poll::Pending
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        if let Some((place, times)) = self.place {
            // The thread may be over.
            let waker = STATE
                .try_with(|state| state.borrow_mut().naps.at(place, times).and_then(Option::take));
            drop(waker);
        }
    }
}

impl Timer for Executor {
    fn sleep(&self, how_long: Duration) -> Work {
        Box::pin(Executor::sleep(*self, how_long))
    }
}

/// A place for one answer.
pub struct Answer<T>(Arc<Mutex<Awaited<T>>>);

struct Awaited<T> {
    answer: Option<T>,
    waker: Option<Waker>,
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Answer<T> {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Awaited { answer: None, waker: None })))
    }

    /// The first one counts.
    pub fn give(&self, answer: T) {
        let mut awaited = self.0.lock().unwrap();
        if awaited.answer.is_none() {
            awaited.answer = Some(answer);
            let waker = awaited.waker.take();
            drop(awaited);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<T> {
        let mut awaited = self.0.lock().unwrap();
        match awaited.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                awaited.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
