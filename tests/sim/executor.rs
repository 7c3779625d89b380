//! One thread, virtual time, and an order that the seed decides.
//!
//! Tasks belong to a group (a process of the simulation, or the world around them). A group can be
//! paused, so that nothing of it runs while time passes, and ended, so that its tasks are dropped.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::random::Random;
use callplane::clock::Timer;

pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who a task belongs to. 0 is the world.
pub type Group = usize;

pub const WORLD: Group = 0;

/// Time begins here: the proxies have been up for a while.
pub const START: Duration = Duration::from_secs(3);

/// Runs everything. Clones share it.
#[derive(Clone)]
pub struct Executor(Arc<Shared>);

struct Shared {
    /// Microseconds.
    now: AtomicU64,
    state: Mutex<State>,
    ready: Arc<Mutex<Vec<usize>>>,
}

struct State {
    tasks: Vec<Slot>,
    free: Vec<usize>,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    groups: Vec<GroupState>,
    random: Random,
}

#[derive(Default)]
struct Slot {
    work: Option<Work>,
    group: Group,
    flag: Option<Arc<Flag>>,
}

#[derive(Default)]
struct GroupState {
    paused: bool,
    ended: bool,
    /// Woken while paused.
    parked: Vec<usize>,
    /// Called for while paused.
    held: Vec<Box<dyn FnOnce() + Send>>,
}

/// Wakes one task, once until it was polled.
struct Flag {
    task: usize,
    woken: Mutex<bool>,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !std::mem::replace(&mut *self.woken.lock().unwrap(), true) {
            self.ready.lock().unwrap().push(self.task);
        }
    }
}

enum What {
    Wake(Arc<Mutex<Napping>>),
    Call(Group, Box<dyn FnOnce() + Send>),
}

struct Scheduled {
    at: u64,
    number: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: it is on top of the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Executor {
    pub fn new(random: Random) -> Self {
        let state = State {
            tasks: Vec::new(),
            free: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            groups: vec![GroupState::default()],
            random,
        };
        Self(Arc::new(Shared {
            now: AtomicU64::new(micros(START)),
            state: Mutex::new(state),
            ready: Arc::default(),
        }))
    }

    pub fn now(&self) -> Duration {
        Duration::from_micros(self.0.now.load(Relaxed))
    }

    pub fn group(&self) -> Group {
        let mut state = self.state();
        state.groups.push(GroupState::default());
        state.groups.len() - 1
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub fn spawn(&self, group: Group, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(group, Box::pin(work));
    }

    pub fn spawn_boxed(&self, group: Group, work: Work) {
        let mut state = self.state();
        if state.groups[group].ended {
            drop(state);
            return drop(work);
        }
        let task = state.free.pop().unwrap_or_else(|| {
            state.tasks.push(Slot::default());
            state.tasks.len() - 1
        });
        let ready = Arc::clone(&self.0.ready);
        let flag = Arc::new(Flag { task, woken: Mutex::new(true), ready });
        state.tasks[task] = Slot { work: Some(work), group, flag: Some(flag) };
        self.0.ready.lock().unwrap().push(task);
    }

    /// Calls then, unless the group has ended; when it goes on, if it is paused.
    pub fn at(&self, at: Duration, group: Group, call: impl FnOnce() + Send + 'static) {
        self.schedule(micros(at), What::Call(group, Box::new(call)));
    }

    pub fn after(&self, wait: Duration, group: Group, call: impl FnOnce() + Send + 'static) {
        self.at(self.now() + wait, group, call);
    }

    fn schedule(&self, at: u64, what: What) {
        let mut state = self.state();
        state.scheduled += 1;
        let number = state.scheduled;
        state.queue.push(Scheduled { at, number, what });
    }

    pub fn sleep(&self, how_long: Duration) -> Nap {
        let at = self.0.now.load(Relaxed).saturating_add(micros(how_long));
        Nap { executor: self.clone(), at, napping: None }
    }

    pub fn pause(&self, group: Group) {
        self.state().groups[group].paused = true;
    }

    pub fn go_on(&self, group: Group) {
        let mut state = self.state();
        let of = &mut state.groups[group];
        of.paused = false;
        let (parked, held) = (std::mem::take(&mut of.parked), std::mem::take(&mut of.held));
        drop(state);
        self.0.ready.lock().unwrap().extend(parked);
        for call in held {
            call();
        }
    }

    /// Drops everything of the group.
    pub fn end(&self, group: Group) {
        let mut state = self.state();
        let of = &mut state.groups[group];
        of.ended = true;
        of.paused = false;
        let (parked, held) = (std::mem::take(&mut of.parked), std::mem::take(&mut of.held));
        let mut dropped = Vec::new();
        for task in 0..state.tasks.len() {
            if state.tasks[task].group == group && state.tasks[task].work.is_some() {
                dropped.push(std::mem::take(&mut state.tasks[task]));
                // Its number stays in use where somebody may still wake it.
            }
        }
        drop(state);
        drop((dropped, parked, held));
    }

    /// Lets all that is ready run.
    pub fn settle(&self) {
        while let Some((task, mut work, flag)) = self.take_ready() {
            let waker = Waker::from(Arc::clone(&flag));
            *flag.woken.lock().unwrap() = false;
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            let mut state = self.state();
            let slot = &mut state.tasks[task];
            let mine = slot.flag.as_ref().is_some_and(|other| Arc::ptr_eq(other, &flag));
            match polled {
                Poll::Pending if mine => slot.work = Some(work),
                Poll::Ready(()) if mine => {
                    *slot = Slot::default();
                    state.free.push(task);
                    drop(state);
                    drop(work);
                }
                // Its group ended while it ran.
                Poll::Pending | Poll::Ready(()) => {
                    drop(state);
                    drop(work);
                }
            }
        }
    }

    fn take_ready(&self) -> Option<(usize, Work, Arc<Flag>)> {
        let mut state = self.state();
        loop {
            let mut ready = self.0.ready.lock().unwrap();
            if ready.is_empty() {
                return None;
            }
            let at = if ready.len() == 1 { 0 } else { state.random.index(ready.len()) };
            let task = ready.swap_remove(at);
            drop(ready);
            let slot = &mut state.tasks[task];
            let Some(flag) = slot.flag.clone() else { continue };
            let group = slot.group;
            if state.groups[group].paused {
                state.groups[group].parked.push(task);
                continue;
            }
            let slot = &mut state.tasks[task];
            let Some(work) = slot.work.take() else { continue };
            return Some((task, work, flag));
        }
    }

    /// When something is to happen.
    pub fn due(&self) -> Option<Duration> {
        self.state().queue.peek().map(|next| Duration::from_micros(next.at))
    }

    /// Time passes until then; what is due is done by [`Self::fire`].
    pub fn advance(&self, to: Duration) {
        self.0.now.fetch_max(micros(to), Relaxed);
    }

    /// Does one thing that is due.
    pub fn fire(&self) {
        let mut state = self.state();
        let now = self.0.now.load(Relaxed);
        if state.queue.peek().is_none_or(|next| next.at > now) {
            return;
        }
        let Some(next) = state.queue.pop() else { return };
        match next.what {
            What::Wake(napping) => {
                drop(state);
                let mut napping = napping.lock().unwrap();
                napping.over = true;
                let waker = napping.waker.take();
                drop(napping);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            What::Call(group, call) => {
                let of = &mut state.groups[group];
                if of.ended {
                    drop(state);
                    drop(call);
                } else if of.paused {
                    of.held.push(call);
                } else {
                    drop(state);
                    call();
                }
            }
        }
    }
}

#[derive(Default)]
struct Napping {
    over: bool,
    waker: Option<Waker>,
}

/// Time that passes.
pub struct Nap {
    executor: Executor,
    at: u64,
    napping: Option<Arc<Mutex<Napping>>>,
}

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.0.now.load(Relaxed) >= self.at {
            return Poll::Ready(());
        }
        match &self.napping {
            Some(napping) => {
                let mut napping = napping.lock().unwrap();
                if napping.over {
                    return Poll::Ready(());
                }
                napping.waker = Some(context.waker().clone());
            }
            None => {
                let napping = Napping { over: false, waker: Some(context.waker().clone()) };
                let napping = Arc::new(Mutex::new(napping));
                self.executor.schedule(self.at, What::Wake(Arc::clone(&napping)));
                self.napping = Some(napping);
            }
        }
        Poll::Pending
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        if let Some(napping) = &self.napping {
            napping.lock().unwrap().waker = None;
        }
    }
}

impl Timer for Executor {
    fn sleep(&self, how_long: Duration) -> Work {
        Box::pin(Executor::sleep(self, how_long))
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
