//! Shell: the limits of a lane, shared by everything that sends to its mirror, and changed while that runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::throttle::{Buckets, Cost, Rates};

/// Limits, and what is left of them at this moment.
#[derive(Debug, Default)]
pub struct Limits {
    /// Read without the lock: a lane without limits pays nothing for them.
    is_limited: AtomicBool,
    state: Mutex<State>,
    /// Rung when the rates changed.
    changed: Condvar,
    /// Held by the thread that waits, so that those behind it cannot overtake it for ever.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    rates: Rates,
    buckets: Buckets,
}

impl Limits {
    /// Limits that are in force from the first byte.
    pub fn new(rates: Rates) -> Self {
        let limits = Self::default();
        limits.set(rates);
        limits
    }

    /// Changes them, for what is under way as well.
    pub fn set(&self, rates: Rates) {
        self.lock().rates = rates;
        self.is_limited.store(rates != Rates::default(), Ordering::Release);
        self.changed.notify_all();
    }

    /// What they are.
    pub fn rates(&self) -> Rates {
        self.lock().rates
    }

    /// How much of a write of `len` bytes is to be one operation.
    pub fn piece(&self, len: usize) -> usize {
        if !self.is_limited.load(Ordering::Acquire) {
            return len;
        }
        self.lock().rates.piece(len)
    }

    /// Takes `cost`, or says when it may be tried again; sooner if the limits are changed.
    ///
    /// # Errors
    /// Not before this moment.
    pub fn take(&self, cost: Cost, now: Instant) -> Result<(), Instant> {
        if cost == Cost::FREE || !self.is_limited.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.lock();
        let rates = state.rates;
        state.buckets.take(cost, rates, now)
    }

    /// Takes `cost`, and blocks the thread until that is allowed.
    pub fn wait(&self, cost: Cost) {
        if cost == Cost::FREE || !self.is_limited.load(Ordering::Acquire) {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let rates = state.rates;
            let Err(later) = state.buckets.take(cost, rates, now) else { return };
            let waited = self.changed.wait_timeout(state, later.saturating_duration_since(now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
