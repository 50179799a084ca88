//! Pure: how many jobs are in flight, and whether to ask the feed for more.

/// Counts jobs in flight against a limit and remembers what the feed said last.
#[derive(Debug)]
pub struct Window {
    limit: usize,
    out: usize,
    feed: FeedSays,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FeedSays {
    More,
    Wait,
    End,
}

impl Window {
    /// An empty window; a limit of zero counts as one.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), out: 0, feed: FeedSays::More }
    }

    /// True when the feed should be asked.
    pub fn wants(&self) -> bool {
        self.feed == FeedSays::More && self.out < self.limit
    }

    /// The feed gave a job.
    pub fn took(&mut self) {
        self.out += 1;
    }

    /// The feed has nothing until a job is done.
    pub fn wait(&mut self) {
        self.feed = FeedSays::Wait;
    }

    /// The feed has nothing any more, or is not to be asked any more.
    pub fn end(&mut self) {
        self.feed = FeedSays::End;
    }

    /// A job is done.
    pub fn finished(&mut self) {
        self.out = self.out.saturating_sub(1);
        if self.feed == FeedSays::Wait {
            self.feed = FeedSays::More;
        }
    }

    /// Nothing is in flight and nothing will come.
    pub fn is_over(&self) -> bool {
        self.out == 0 && self.feed == FeedSays::End
    }

    /// The feed waits for something that can never happen.
    pub fn is_starved(&self) -> bool {
        self.out == 0 && self.feed == FeedSays::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_again_after_something_is_done() {
        let mut window = Window::new(2);
        assert!(window.wants());
        window.took();
        window.wait();
        assert!(!window.wants() && !window.is_starved());
        window.finished();
        assert!(window.wants());
        window.took();
        window.took();
        assert!(!window.wants());
        window.end();
        window.finished();
        assert!(!window.wants() && !window.is_over());
        window.finished();
        assert!(window.is_over());
    }

    #[test]
    fn waiting_for_nothing_is_noticed() {
        let mut window = Window::new(1);
        window.wait();
        assert!(window.is_starved());
    }
}
